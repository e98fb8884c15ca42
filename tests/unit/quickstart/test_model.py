"""The byte tokenizer and the tiny decoder's folder."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from hf_reward.quickstart.model import MAX_LENGTH, SPECIAL_TOKENS, byte_tokenizer, tiny_config, write_model


TOKENIZER = byte_tokenizer()
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Reply in capitals: how is the red boat?"},
    {"role": "assistant", "content": "THE BOAT IS DRY."},
]
# Special tokens spelt out in a text are special tokens, as in every chat tokenizer.
plain_text = st.text(max_size=60).filter(lambda text: not any(token in text for token in SPECIAL_TOKENS))


@settings(max_examples=200, deadline=None)
@given(plain_text)
def test_any_text_comes_back_and_holds_no_special_token(text):
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == text
    assert len(ids) == len(text.encode())
    assert not set(ids) & set(TOKENIZER.all_special_ids)


def test_emoji_and_spaces_come_back():
    text = "  Wärme 👩‍🚀 , \n\t don't  do  that . 中文 "
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_special_tokens():
    assert len(TOKENIZER) == 256 + 6
    assert TOKENIZER.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == [0, 1, 2, 3, 4, 5]
    assert set(TOKENIZER.all_special_tokens) == set(SPECIAL_TOKENS)
    assert (TOKENIZER.pad_token, TOKENIZER.bos_token, TOKENIZER.eos_token) == ("<pad>", "<bos>", "<eos>")
    assert TOKENIZER.encode("<eos>") == [TOKENIZER.eos_token_id]
    assert TOKENIZER.model_max_length == MAX_LENGTH


def test_template_ends_an_assistant_turn_with_eos():
    rendered = TOKENIZER.apply_chat_template(TURNS, tokenize=False)
    assert rendered == (
        "<|system|>Be brief.<|user|>Reply in capitals: how is the red boat?<|assistant|>THE BOAT IS DRY.<eos>"
    )
    ids = TOKENIZER.apply_chat_template(TURNS, return_dict=False)
    assert ids == TOKENIZER.encode(rendered)
    assert ids[-1] == TOKENIZER.eos_token_id
    assert ids.count(TOKENIZER.eos_token_id) == 1
    assert TOKENIZER.pad_token_id not in ids


def test_prompt_is_the_beginning_of_the_conversation():
    prompt = TOKENIZER.apply_chat_template(TURNS[:2], add_generation_prompt=True, return_dict=False)
    conversation = TOKENIZER.apply_chat_template(TURNS, return_dict=False)
    assert conversation[: len(prompt)] == prompt
    assert TOKENIZER.decode(conversation[len(prompt) :]) == "THE BOAT IS DRY.<eos>"


def test_config_fits_the_tokenizer():
    config = tiny_config(len(TOKENIZER))
    assert config.vocab_size == 262
    assert config.id2label == {0: "LABEL_0"}
    assert config.pad_token_id == TOKENIZER.pad_token_id
    assert config.bos_token_id == TOKENIZER.bos_token_id
    assert config.eos_token_id == TOKENIZER.eos_token_id
    assert config.max_position_embeddings == TOKENIZER.model_max_length


def test_folder_without_weights_builds_the_model(tmp_path):
    write_model(tmp_path / "new" / "tiny")
    folder = tmp_path / "new" / "tiny"
    assert sorted(path.name for path in folder.iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    model = AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(folder))
    assert type(model).__name__ == "LlamaForSequenceClassification"
    assert tuple(model.score.weight.shape) == (1, 64)
    assert sum(parameter.numel() for parameter in model.parameters()) == 148224


@pytest.mark.parametrize("text", ["", "plain text", "naïve 🙂", "<|user|>hi<eos>"])
def test_saved_tokenizer_gives_the_same_ids(tmp_path, text):
    write_model(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.encode(text) == TOKENIZER.encode(text)
    assert loaded.decode(loaded.encode(text)) == text
    assert loaded.apply_chat_template(TURNS, return_dict=False) == TOKENIZER.apply_chat_template(
        TURNS, return_dict=False
    )
    assert loaded.special_tokens_map == TOKENIZER.special_tokens_map
    assert loaded.model_max_length == MAX_LENGTH
