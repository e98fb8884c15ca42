import copy
import json
import logging

import pytest
from datasets import Dataset, IterableDataset
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from hf_reward.config import DataArguments
from hf_reward.data.accounts import SplitRows
from hf_reward.data.columns import NOTES
from hf_reward.data.lengths import LengthLimits
from hf_reward.data.loading import load_sources
from hf_reward.data.reading import ReadingOptions, detect_reader
from hf_reward.data.tokenization import RowRules, keep_usable, tokenize_dataset
from hf_reward.errors import DataError
from hf_reward.modeling.tokenizer import prepare_tokenizer


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def chat(prompt, chosen, rejected):
    turns = [user(prompt)] if isinstance(prompt, str) else prompt
    return {"prompt": turns, "chosen": [assistant(chosen)], "rejected": [assistant(rejected)]}


def tokenize(rows, tokenizer, rules=None, options=None):
    dataset = Dataset.from_list(rows)
    reader = detect_reader(dataset, "pairs", options)
    return tokenize_dataset(dataset, reader, tokenizer, "pairs", rules or RowRules())


def limits(max_length=None, max_prompt_length=None, overlong="drop", **rules):
    return RowRules(LengthLimits(max_length, max_prompt_length, overlong), **rules)


def notes(row):
    return [name for place, name in enumerate(NOTES) if row["notes"] >> place & 1]


def completions(row):
    return [row[f"{side}_input_ids"][row["prompt_length"] :] for side in ("chosen", "rejected")]


@pytest.fixture
def bos_tokenizer():
    """Words, with BOS before plain text by its own post-processor, as Llama's does."""
    words = ["<pad>", "<s>", "</s>", "<unk>", *"abcdefgh"]
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


# ---- BOS and EOS ----------------------------------------------------------------------------------------------------


def test_text_gets_bos_and_eos_exactly_once(bos_tokenizer):
    rows = [
        {"prompt": "a b ", "chosen": "c", "rejected": "d"},
        {"prompt": "<s> a b ", "chosen": "c </s>", "rejected": "d"},
    ]
    plain, literal = tokenize(rows, bos_tokenizer)
    assert plain["chosen_input_ids"] == literal["chosen_input_ids"] == [1, 4, 5, 6, 2]
    assert plain["rejected_input_ids"] == literal["rejected_input_ids"] == [1, 4, 5, 7, 2]
    assert plain["prompt_length"] == literal["prompt_length"] == 3
    assert (notes(plain), notes(literal)) == ([], ["special_tokens_in_content", "bos_deduplicated"])


def test_a_tokenizer_that_closes_by_itself_is_left_to_do_so(bos_tokenizer):
    both = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    bos_tokenizer.backend_tokenizer.post_processor = both
    (row,) = tokenize([{"prompt": "a b ", "chosen": "c", "rejected": "d </s>"}], bos_tokenizer)
    assert (row["chosen_input_ids"], row["rejected_input_ids"]) == ([1, 4, 5, 6, 2], [1, 4, 5, 7, 2])
    assert row["prompt_length"] == 3


def test_ids_are_those_of_the_tokenizers_own_call(tokenizer, bos_tokenizer):
    (row,) = tokenize([{"prompt": "a ", "chosen": "b c", "rejected": "d"}], bos_tokenizer)
    assert row["chosen_input_ids"] == [*bos_tokenizer("a b c")["input_ids"], 2]
    # Left over from an earlier call, and saved with the tokenizer.
    tokenizer.backend_tokenizer.enable_truncation(2)
    tokenizer.backend_tokenizer.enable_padding(length=50)
    (row,) = tokenize([chat("question", "good", "bad")], tokenizer)
    turns = [user("question"), assistant("good")]
    assert row["chosen_input_ids"] == tokenizer.apply_chat_template(turns, return_dict=False)


# ---- the end of the prompt ------------------------------------------------------------------------------------------


def test_the_prompt_ends_with_its_own_rendering_and_the_shared_prefix_is_counted_apart(tokenizer):
    (row,) = tokenize([chat("Hi", "same start, a", "same start, b")], tokenizer)
    prompt = tokenizer.apply_chat_template([user("Hi")], add_generation_prompt=True, return_dict=False)
    assert row["chosen_input_ids"][: row["prompt_length"]] == prompt
    assert row["shared_prefix_length"] == len(prompt) + len("same start, ")
    assert [tokenizer.decode(ids) for ids in completions(row)] == ["same start, a<eos>", "same start, b<eos>"]


def test_without_a_known_prompt_it_is_the_longest_common_token_prefix(tokenizer):
    (text,) = tokenize([{"chosen": "Q: hi A: yes", "rejected": "Q: hi A: no"}], tokenizer)
    assert text["prompt_length"] == text["shared_prefix_length"] == len("Q: hi A: ")
    (ids,) = tokenize([{"chosen_ids": [5, 6, 7, 2], "rejected_ids": [5, 6, 8, 2]}], tokenizer)
    assert (ids["prompt_length"], ids["chosen_input_ids"]) == (2, [5, 6, 7, 2])


def test_every_completion_keeps_a_token_even_if_it_begins_the_other_one(tokenizer):
    (row,) = tokenize([{"chosen_ids": [5, 6, 7], "rejected_ids": [5, 6]}], tokenizer)
    assert (row["prompt_length"], row["shared_prefix_length"]) == (1, 2)


def test_a_prompt_whose_last_token_merges_with_a_completion_ends_earlier_and_is_noted():
    vocabulary = {"<pad>": 0, "</s>": 1, "a": 2, "b": 3, "c": 4, "ab": 5}
    backend = Tokenizer(models.BPE(vocabulary, merges=[("a", "b")]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>")
    (row,) = tokenize([{"prompt": "ca", "chosen": "b", "rejected": "c"}], tokenizer)
    assert (row["chosen_input_ids"], row["rejected_input_ids"]) == ([4, 5, 1], [4, 2, 4, 1])
    assert (row["prompt_length"], notes(row)) == (1, ["prompt_not_prefix"])


def test_prompts_are_known_by_their_key(tokenizer):
    rows = [chat("Hi", "a", "b"), chat("Hi", "c", "d"), chat("Ho", "a", "b")]
    one, same, other = tokenize(rows, tokenizer)["prompt_key"]
    assert one == same != other


def test_texts_that_share_a_few_tokens_only_have_no_common_prompt(tokenizer):
    rows = [{"chosen": "I like", "rejected": "I hate"}, {"chosen": "I am", "rejected": "I was"}]
    one, other = tokenize(rows, tokenizer)["prompt_key"]
    assert one != other
    longer = [{"chosen": f"Question 1? {one}", "rejected": f"Question 1? {two}"} for one, two in ("ab", "cd")]
    one, same = tokenize(longer, tokenizer)["prompt_key"]
    assert one == same


# ---- special tokens in the content (fault 21) -----------------------------------------------------------------------


def test_special_tokens_in_the_content_are_counted_and_the_pad_token_drops_the_row(tokenizer):
    rows = [chat("a<|assistant|>b", "good", "bad"), chat("q", "x<pad>y", "bad"), chat("q", "good", "bad")]
    literal, padded, clean = tokenize(rows, tokenizer)
    mark = tokenizer.convert_tokens_to_ids("<|assistant|>")
    assert literal["chosen_input_ids"].count(mark) == 2
    assert [notes(row) for row in (literal, padded, clean)] == [["special_tokens_in_content"]] * 2 + [[]]
    assert [row["drop_reason"] for row in (literal, padded, clean)] == ["", "pad_token_in_completion", ""]


@pytest.mark.parametrize("text", [False, True])
def test_escaped_special_tokens_are_ordinary_text(tokenizer, text):
    row = chat("a<|assistant|>b", "x<pad>y<eos>", "bad")
    if text:
        row = {"prompt": "a<|assistant|>b", "chosen": "x<pad>y<eos>", "rejected": "bad"}
    (found,) = tokenize([row], tokenizer, RowRules(escape_special_tokens=True))
    ids = found["chosen_input_ids"]
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    written = [] if text else ["<|user|>", "<|assistant|>"]
    assert tokenizer.convert_ids_to_tokens([i for i in ids if i in special]) == [*written, "<eos>"]
    assert (
        tokenizer.decode(ids) == "".join(written[:1]) + "a<|assistant|>b" + "".join(written[1:]) + "x<pad>y<eos><eos>"
    )
    assert (found["drop_reason"], notes(found)) == ("", ["special_tokens_in_content"])


# ---- the length policy ----------------------------------------------------------------------------------------------


def test_limits_are_inclusive(tokenizer):
    # <|user|> Hi <|assistant|> good <eos>: 1 + 2 + 1 + 4 + 1
    rows = [chat("Hi", "good", "bad")]
    reason = lambda rules: tokenize(rows, tokenizer, rules)["drop_reason"]  # noqa: E731
    assert [*reason(limits(9)), *reason(limits(8))] == ["", "too_long"]
    assert [*reason(limits(None, 4)), *reason(limits(None, 3))] == ["", "prompt_too_long"]


def test_the_oldest_turns_go_first_and_system_message_and_completions_stay_whole(tokenizer):
    system = {"role": "system", "content": "S"}
    prompt = [system, user("one"), assistant("1"), user("two"), assistant("2"), user("three")]
    (whole,) = tokenize([chat(prompt, "good", "bad")], tokenizer)
    (row,) = tokenize(
        [chat(prompt, "good", "bad")], tokenizer, limits(whole["length"] - 1, overlong="truncate_prompt")
    )
    left = "<|system|>S<|user|>two<|assistant|>2<eos><|user|>three<|assistant|>"
    assert tokenizer.decode(row["chosen_input_ids"]) == left + "good<eos>"
    assert tokenizer.decode(row["rejected_input_ids"]) == left + "bad<eos>"
    assert tokenizer.decode(row["chosen_input_ids"][: row["prompt_length"]]) == left
    assert (row["drop_reason"], notes(row), row["length"]) == ("", ["prompt_truncated"], len(row["chosen_input_ids"]))
    assert (row["prompt_key"], row["order_key"]) == (whole["prompt_key"], whole["order_key"])


def test_a_pair_that_cannot_fit_is_dropped(tokenizer):
    prompt = [user("one"), assistant("1"), user("a last turn that is too long by itself")]
    (row,) = tokenize([chat(prompt, "good", "bad")], tokenizer, limits(20, overlong="truncate_prompt"))
    assert (row["drop_reason"], notes(row)) == ("too_long", [])


def test_of_text_the_first_tokens_go_and_bos_stays(bos_tokenizer):
    rows = [{"prompt": "a b c d ", "chosen": "e f", "rejected": "g"}]
    (row,) = tokenize(rows, bos_tokenizer, limits(6, overlong="truncate_prompt"))
    assert (row["chosen_input_ids"], row["rejected_input_ids"]) == ([1, 6, 7, 8, 9, 2], [1, 6, 7, 10, 2])
    assert (row["prompt_length"], row["shared_prefix_length"], notes(row)) == (3, 3, ["prompt_truncated"])
    (row,) = tokenize(rows, bos_tokenizer, limits(4, overlong="truncate_prompt"))
    assert row["drop_reason"] == "too_long"


def test_a_template_that_changes_the_completion_with_the_prompt_leaves_the_pair_alone(tokenizer):
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "message['content'] }}", "message['content'] + ('!' if messages | length < 4 else '') }}"
    )
    prompt = [user("a long first turn"), assistant("1"), user("two")]
    (row,) = tokenize([chat(prompt, "good", "bad")], tokenizer, limits(20, overlong="truncate_prompt"))
    assert row["drop_reason"] == "too_long"


# ---- drops ----------------------------------------------------------------------------------------------------------


def test_identical_and_empty_completions_are_dropped_unless_they_may_stay(tokenizer):
    rows = [chat("q", "same", "same"), chat("q", "", "bad"), chat("q", "good", " \n")]
    assert tokenize(rows, tokenizer)["drop_reason"][:] == ["identical", "empty", "empty"]
    kept = tokenize(rows, tokenizer, RowRules(drop_identical=False, drop_empty=False))
    assert kept["drop_reason"][:] == ["", "", ""]


def test_ranked_groups_keep_their_order_and_drop_as_one(tokenizer):
    rows = [{"prompt": "q ", "completions": ["a", "b", "c"]}, {"prompt": "q ", "completions": ["a", "b", "a"]}]
    found = tokenize(rows, tokenizer)
    assert [tokenizer.decode(ids) for ids in found[0]["completion_input_ids"]] == ["q a<eos>", "q b<eos>", "q c<eos>"]
    assert (found[0]["prompt_length"], found[0]["group_size"], found[0]["group_tokens"]) == (2, 3, 12)
    assert found["drop_reason"][:] == ["", "identical"]


def test_completions_that_a_group_leaves_out_are_noted(tokenizer):
    rows = [{"prompt": "q ", "completions": list("abc"), "scores": [3.0, 2.0, last]} for last in (1.0, 2.0)]
    assert [notes(row) for row in tokenize(rows, tokenizer)] == [[], ["completions_left_out"]]


def test_a_template_error_names_the_file_of_the_row(tokenizer, tmp_path):
    tokenizer.chat_template = (
        "{%- if 'bad' in messages[0]['content'] %}{{- raise_exception('no bad words') }}{%- endif %}"
        + tokenizer.chat_template
    )
    for name, prompts in (("a", ["q", "r"]), ("b", ["s", "bad"])):
        lines = [json.dumps(chat(prompt, "good", "poor")) + "\n" for prompt in prompts]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    (source,) = load_sources(DataArguments(dataset_name=str(tmp_path)), "train")
    with pytest.raises(DataError, match=r"b\.jsonl, row 2: the chat template cannot render"):
        tokenize_dataset(source.dataset, source.reader, tokenizer, source.name, RowRules())


def test_a_negative_margin_is_noted(tokenizer):
    rows = [chat("q", "good", "bad") | {"margin": margin} for margin in (-0.5, 0.5)]
    assert [notes(row) for row in tokenize(rows, tokenizer)] == [["negative_margin"], []]


def test_a_token_id_outside_the_vocabulary_is_an_error_with_the_row(tokenizer):  # fault 30
    rows = [{"chosen_input_ids": [5, 6], "rejected_input_ids": [5, last]} for last in (7, len(tokenizer))]
    expected = rf"pairs, row 2: found the token id {len(tokenizer)} \(expected ids below {len(tokenizer)}"
    with pytest.raises(DataError, match=expected):
        tokenize(rows, tokenizer)


def test_no_row_at_all_is_an_error(tokenizer):  # fault 22
    dataset = Dataset.from_list([chat("q", "good", "bad")])
    with pytest.raises(DataError, match="pairs: there are no rows"):
        tokenize_dataset(dataset.select([]), detect_reader(dataset, "pairs"), tokenizer, "pairs", RowRules())


def test_a_row_that_the_template_refuses_is_named_or_dropped(tokenizer, caplog):
    refuse = "{%- if 'bad' in messages[0]['content'] %}{{- raise_exception('no bad words') }}{%- endif %}"
    tokenizer.chat_template = refuse + tokenizer.chat_template
    rows = [chat("q", "good", "poor"), chat("bad", "good", "poor")]
    with pytest.raises(DataError, match=r"pairs, row 2: the chat template cannot render .*no bad words"):
        tokenize(rows, tokenizer)
    with caplog.at_level(logging.WARNING):
        found = tokenize(rows, tokenizer, options=ReadingOptions(on_bad_row="drop"))
    assert found["drop_reason"][:] == ["", "bad_row"]
    assert "no bad words" in caplog.text


@pytest.mark.parametrize("name", ["margin", "weight"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "1"])
def test_a_margin_or_weight_that_is_no_finite_number_is_an_error_with_the_row(tokenizer, name, value):  # fault 29
    rows = [chat("q", "good", "bad") | {name: value}]
    with pytest.raises(DataError, match=f"pairs, row 1: `{name}` is"):
        tokenize(rows, tokenizer)


# ---- ways to the same result ----------------------------------------------------------------------------------------


def test_arguments_of_single_rows_reach_the_template(tokenizer):
    tokenizer.chat_template = "{{- mood | default('plain') }}{{- (tools or []) | length }}" + tokenizer.chat_template
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    rows = [
        chat("q", "good", "bad") | {"chat_template_kwargs": {"mood": "happy"}, "tools": [tool]},
        chat("q", "good", "bad") | {"chat_template_kwargs": None, "tools": None},
    ]
    texts = [tokenizer.decode(ids) for ids in tokenize(rows, tokenizer)["chosen_input_ids"]]
    assert texts == [
        "happy1<|user|>q<|assistant|>good<eos>",
        "plain0<|user|>q<|assistant|>good<eos>",
    ]


def test_processes_and_streams_give_the_same_rows(tokenizer, chat_pairs):
    rules = RowRules(LengthLimits(40))
    reader = detect_reader(chat_pairs, "pairs")
    prepare_tokenizer(tokenizer)
    alone = tokenize_dataset(chat_pairs, reader, tokenizer, "pairs", rules)
    several = tokenize_dataset(chat_pairs, reader, tokenizer, "pairs", rules, num_proc=2)
    assert several[:] == alone[:]
    stream = keep_usable(tokenize_dataset(chat_pairs.to_iterable_dataset(2), reader, tokenizer, "pairs", rules))
    assert isinstance(stream, IterableDataset)
    assert list(stream) == list(SplitRows.join([alone], ["pairs"]).dataset())
    assert 0 < len(list(stream)) < len(chat_pairs)


def test_a_tokenizer_is_left_as_it_was(tokenizer):
    before = copy.deepcopy(tokenizer.backend_tokenizer.encode_special_tokens)
    row = {"prompt": "q<eos>", "chosen": "good", "rejected": "bad"}
    tokenize([row], tokenizer, RowRules(escape_special_tokens=True))
    assert tokenizer.backend_tokenizer.encode_special_tokens == before is False
    assert tokenizer("<eos>")["input_ids"] == [tokenizer.eos_token_id]
