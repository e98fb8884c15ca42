"""A pad token of its own, one closing token, and a saved template that says so."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hf_reward import ConfigurationError
from hf_reward.data.chat_templates import shipped_templates
from hf_reward.modeling.tokenizer import prepare_tokenizer


CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]


def ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    return tokenizer.apply_chat_template(CHAT, return_dict=False)


def test_a_tokenizer_that_is_fit_is_left_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    template, pad = tokenizer.chat_template, tokenizer.pad_token
    assert prepare_tokenizer(tokenizer) == []
    assert (tokenizer.chat_template, tokenizer.pad_token) == (template, pad)


@pytest.mark.parametrize("state", ["missing", "eos"])
def test_an_existing_reserved_token_becomes_the_pad_token(state: str, tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|reserved_0|>", "<|image_pad|>"]})
    size = len(tokenizer)
    tokenizer.pad_token = None if state == "missing" else tokenizer.eos_token
    # <pad> is in the vocabulary already, made for nothing else.
    changes = prepare_tokenizer(tokenizer)
    assert tokenizer.pad_token == "<pad>"
    assert len(tokenizer) == size
    assert "reserved token <pad>" in changes[0]


def test_a_token_of_the_template_or_beyond_the_embedding_is_not_taken(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = "<pad>" + tokenizer.chat_template
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|reserved_0|>"]})
    rows = tokenizer.convert_tokens_to_ids("<|reserved_0|>")
    changes = prepare_tokenizer(tokenizer, embedding_rows=rows)
    assert "added to the vocabulary" in changes[0]
    assert tokenizer.pad_token_id == rows + 1
    assert tokenizer.pad_token not in (tokenizer.eos_token, "<pad>")
    tokenizer.pad_token = tokenizer.eos_token
    prepare_tokenizer(tokenizer, embedding_rows=rows + 1)
    assert tokenizer.pad_token == "<|reserved_0|>"


ENDINGS = {
    "newline": (
        "{{ '<|assistant|>' + m['content'] + eos_token + '\n' }}",
        "'\\n' after the end-of-turn token is dropped",
    ),
    "nothing": ("{{ '<|assistant|>' + m['content'] }}", "<eos> is added, which the template did not write"),
    "closed": ("{{ '<|assistant|>' + m['content'] + eos_token }}", None),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_conversation_ends_with_one_closing_token_also_after_saving(
    ending: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    turn, change = ENDINGS[ending]
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ '<|user|>' + m['content'] + '\n' }}{% else %}"
        + turn
        + "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    )
    prompt = tokenizer.apply_chat_template(CHAT[:1], add_generation_prompt=True, return_dict=False)
    changes = prepare_tokenizer(tokenizer)
    assert [c for c in changes if change and change in c] == ([] if change is None else changes)
    assert prepare_tokenizer(tokenizer) == []  # a second time changes nothing more
    tokenizer.save_pretrained(tmp_path)
    saved = AutoTokenizer.from_pretrained(tmp_path)
    expected = tokenizer("<|user|>Hi\n<|assistant|>Yes<eos>")["input_ids"]
    assert ids(saved) == ids(tokenizer) == expected
    assert saved.apply_chat_template(CHAT[:1], add_generation_prompt=True, return_dict=False) == prompt


def test_add_bos_prepends_it_once(tokenizer: PreTrainedTokenizerFast) -> None:
    before = ids(tokenizer)
    prepare_tokenizer(tokenizer, add_bos=True)
    assert ids(tokenizer) == [tokenizer.bos_token_id, *before]
    with pytest.raises(ConfigurationError, match="starts with the BOS token already"):
        prepare_tokenizer(tokenizer, add_bos=True)


@pytest.mark.parametrize("name", shipped_templates())
def test_a_shipped_template_closes_once_and_its_prompt_is_a_prefix(
    name: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    prepare_tokenizer(tokenizer, chat_template_path=name)
    whole = ids(tokenizer)
    prompt = tokenizer.apply_chat_template(CHAT[:1], add_generation_prompt=True, return_dict=False)
    assert whole[: len(prompt)] == prompt
    assert 0 < len(prompt) < len(whole)
    text = tokenizer.apply_chat_template(CHAT, tokenize=False)
    assert text.endswith(("Yes<eos>", "Yes<|im_end|>", "Yes<|im_end|><eos>"))
    assert text == text.rstrip()


def test_a_template_comes_from_a_file_or_another_tokenizer(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text("{{ messages[-1]['content'] + eos_token }}")
    prepare_tokenizer(tokenizer, chat_template_path=str(tmp_path / "mine.jinja"))
    assert tokenizer.decode(ids(tokenizer)) == "Yes<eos>"
    tokenizer.save_pretrained(tmp_path / "other")
    tokenizer.chat_template = None
    prepare_tokenizer(tokenizer, chat_template_path=str(tmp_path / "other"))
    assert tokenizer.decode(ids(tokenizer)) == "Yes<eos>"
    with pytest.raises(ConfigurationError, match="neither a template shipped here"):
        prepare_tokenizer(tokenizer, chat_template_path=str(tmp_path / "absent"))


def test_a_token_that_is_not_in_the_vocabulary_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ConfigurationError, match="`eos_token` is '<nope>'"):
        prepare_tokenizer(tokenizer, eos_token="<nope>")
