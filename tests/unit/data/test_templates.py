import re
from pathlib import Path

import pytest
import trl
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hf_reward.data.chat_templates import find_chat_template, shipped_templates
from hf_reward.data.encoding import EncodedRow, RowEncoder
from hf_reward.data.formats import PreferenceRow
from hf_reward.errors import ConfigurationError
from hf_reward.modeling.tokenizer import prepare_tokenizer
from hf_reward.quickstart.model import byte_tokenizer


OTHERS = {path.stem: path for path in sorted((Path(trl.__file__).parent / "chat_templates").glob("*.jinja"))}
# They take content as a list of parts only.
PARTS_ONLY = {"llava_next", "llava_next_training"}
# Their generation prompt opens a thought, which a finished answer without one does not have.
OPENS_A_THOUGHT = ("deepseek", "nemotron")
MARKS = re.compile(
    r"<\|[^<>|\s]+\|?>|<｜[^<>]+｜>|</?s>|<(?:start|end)_of_turn>|<turn\|>|\[/?[A-Z_]+\]|<end_of_utterance>"
)


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def row(prompt, *completions):
    return PreferenceRow(prompt, [[assistant(text)] for text in completions], None, {}, None, None)


ROWS = [
    row([user("hi there")], "good one", "bad"),
    row([user("hi"), assistant("yes?"), user("and now?")], "good one", "bad"),
]


def with_template(template):
    tokenizer = byte_tokenizer()
    marks = sorted(set(MARKS.findall(template)))
    if marks:
        tokenizer.add_special_tokens({"additional_special_tokens": marks}, replace_extra_special_tokens=False)
    tokenizer.chat_template = template
    prepare_tokenizer(tokenizer)
    return tokenizer


def saved(tokenizer, folder):
    tokenizer.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("name", sorted(set(OTHERS) - PARTS_ONLY))
def test_ids_of_training_are_those_of_the_saved_tokenizer_closed_with_one_token(name, tmp_path):
    tokenizer = with_template(OTHERS[name].read_text(encoding="utf-8"))
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    reader = saved(tokenizer, tmp_path)
    for given, encoded in zip(ROWS, RowEncoder(tokenizer, "x")(ROWS, ["a", "b"]), strict=True):
        assert isinstance(encoded, EncodedRow)
        conversations = [[*given.prompt, *side] for side in given.completions]
        assert encoded.sides == [reader.apply_chat_template(turns, return_dict=False) for turns in conversations]
        assert encoded.prompt == reader.apply_chat_template(
            given.prompt, add_generation_prompt=True, return_dict=False
        )
        assert all(side[-1] in special and side[-2] not in {side[-1]} for side in encoded.sides)
        is_prefix = [side[: len(encoded.prompt)] == encoded.prompt for side in encoded.sides]
        assert is_prefix == [not name.startswith(OPENS_A_THOUGHT)] * 2


@pytest.mark.parametrize("name", shipped_templates())
def test_shipped_templates_close_with_one_token_after_a_prompt_that_is_a_prefix(name, tmp_path):
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    prepare_tokenizer(tokenizer, chat_template_path=name)
    closing = "<|im_end|>" if name == "chatml" else "<eos>"
    reader = saved(tokenizer, tmp_path)
    for given, encoded in zip(ROWS, RowEncoder(tokenizer, "x")(ROWS, ["a", "b"]), strict=True):
        assert encoded.sides == [
            reader.apply_chat_template([*given.prompt, *side], return_dict=False) for side in given.completions
        ]
        assert all(side[: len(encoded.prompt)] == encoded.prompt for side in encoded.sides)
        assert [tokenizer.decode(side[-1:]) for side in encoded.sides] == [closing] * 2
        assert all(side.count(tokenizer.bos_token_id) == (name == "plain") for side in encoded.sides)


def test_a_template_comes_from_a_name_a_file_or_another_tokenizer(tmp_path, tokenizer):
    file = tmp_path / "mine.jinja"
    file.write_text("{{ messages[0]['content'] }}", encoding="utf-8")
    tokenizer.save_pretrained(tmp_path / "other")
    assert find_chat_template(str(file)) == "{{ messages[0]['content'] }}"
    assert find_chat_template(str(tmp_path / "other")) == tokenizer.chat_template
    assert "<|im_start|>" in find_chat_template("chatml")
    with pytest.raises(
        ConfigurationError, match=r"'nowhere': neither a template shipped here \(chatml, plain, tulu\)"
    ):
        find_chat_template("nowhere")


def test_add_bos_writes_it_once_and_refuses_it_twice(tokenizer):
    prepare_tokenizer(tokenizer, add_bos=True)
    (encoded,) = RowEncoder(tokenizer, "x")([ROWS[1]], ["a"])
    assert [ids.count(tokenizer.bos_token_id) for ids in (encoded.prompt, *encoded.sides)] == [1, 1, 1]
    assert [ids[0] for ids in (encoded.prompt, *encoded.sides)] == [tokenizer.bos_token_id] * 3
    with pytest.raises(ConfigurationError, match="starts with the BOS token already"):
        prepare_tokenizer(tokenizer, add_bos=True)


def test_a_template_that_renders_the_prompt_by_what_follows_is_noted(tokenizer):
    tokenizer.chat_template = (
        "{%- if messages[-1]['content'] == 'odd' %}{{- 'odd prompt: ' }}{%- endif %}" + tokenizer.chat_template
    )
    prepare_tokenizer(tokenizer)
    same, differs = RowEncoder(tokenizer, "x")(
        [row([user("q")], "good", "bad"), row([user("q")], "odd", "bad")], ["a", "b"]
    )
    assert (same.notes, differs.notes) == ((), ("template_differs",))


def test_several_templates_of_one_tokenizer_are_all_closed(tokenizer):
    newline = tokenizer.chat_template.replace("{{- eos_token }}", "{{- eos_token + '\n' }}")
    tokenizer.chat_template = {"default": newline, "tool_use": newline}
    prepare_tokenizer(tokenizer)
    turns = [user("q"), assistant("a")]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    assert tokenizer.apply_chat_template(turns, tokenize=False).endswith("a<eos>")
    assert tokenizer.apply_chat_template(turns, tools=tools, tokenize=False).endswith("a<eos>")


def test_a_tokenizer_without_a_template_is_told_where_to_get_one(tokenizer: PreTrainedTokenizerFast):
    tokenizer.chat_template = None
    with pytest.raises(ConfigurationError, match=r"pairs.jsonl holds chat messages.*`chat_template_path`"):
        RowEncoder(tokenizer, "pairs.jsonl")([ROWS[0]], ["a"])
