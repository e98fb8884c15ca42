"""Each preference format in its one shape, and each fault with its message."""

import math
from dataclasses import FrozenInstanceError

import pytest

from hf_reward.data.formats import (
    PreferenceRow,
    check_columns,
    has_token_ids,
    parse_row,
    parse_token_row,
    prompt_key,
)
from hf_reward.errors import DataError


PLACE = "train.jsonl, row 3"


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def pair(**columns):
    """A good row with an explicit prompt, and what a test changes in it."""
    return {"prompt": [user("Hi")], "chosen": [assistant("Yes")], "rejected": [assistant("No")]} | columns


def message_of(row):
    with pytest.raises(DataError) as caught:
        parse_row(row, PLACE)
    text = str(caught.value)
    assert text.startswith(f"{PLACE}: ")
    return text


def test_explicit_prompt_of_messages():
    row = parse_row(pair(), PLACE)
    assert row == PreferenceRow([user("Hi")], [[assistant("Yes")], [assistant("No")]], None, {}, None, None)
    with pytest.raises(FrozenInstanceError):
        row.margin = 1.0


def test_explicit_prompt_of_text():
    row = parse_row({"prompt": "Hi", "chosen": " Yes", "rejected": " No"}, PLACE)
    assert (row.prompt, row.completions) == ("Hi", [" Yes", " No"])


def test_plain_text_has_no_prompt():
    row = parse_row({"chosen": "Hi Yes", "rejected": "Hi No"}, PLACE)
    assert (row.prompt, row.completions) == (None, ["Hi Yes", "Hi No"])


def test_implicit_prompt_is_what_both_conversations_share():
    turns = [{"role": "system", "content": "Be brief."}, user("Hi"), assistant("Hello"), user("Well?")]
    row = parse_row({"chosen": [*turns, assistant("Yes")], "rejected": [*turns, assistant("No")]}, PLACE)
    assert row.prompt == turns
    assert row.completions == [[assistant("Yes")], [assistant("No")]]


def test_implicit_prompt_leaves_the_last_message_of_equal_conversations():
    turns = [user("Hi"), assistant("Yes")]
    row = parse_row({"chosen": turns, "rejected": turns}, PLACE)
    assert (row.prompt, row.completions) == ([user("Hi")], [[assistant("Yes")], [assistant("Yes")]])


@pytest.mark.parametrize(
    ("chosen", "rejected", "shared"),
    [
        # The sides part at a question: the answer before it is not the end of a prompt.
        (
            [user("a"), assistant("b"), user("c"), assistant("d")],
            [user("a"), assistant("b"), user("e"), assistant("f")],
            1,
        ),
        # One conversation goes on where the other ends.
        ([user("a"), assistant("b")], [user("a"), assistant("b"), user("c"), assistant("d")], 1),
        ([user("a"), assistant("b")], [user("c"), assistant("d")], 0),
        # One goes on with a question where the other goes on with an answer.
        ([user("a"), assistant("b"), user("c"), assistant("d")], [user("a"), assistant("b"), assistant("e")], 1),
        ([assistant("b")], [assistant("d")], 0),
    ],
)
def test_implicit_prompt_ends_before_an_answer(chosen, rejected, shared):
    row = parse_row({"chosen": chosen, "rejected": rejected}, PLACE)
    assert (row.prompt, row.completions) == (chosen[:shared], [chosen[shared:], rejected[shared:]])


def test_one_message_stands_for_a_list_of_one():
    assert parse_row(pair(chosen=assistant("Yes"), rejected=assistant("No")), PLACE) == parse_row(pair(), PLACE)


def test_tool_calls_and_names_are_kept_and_filled_in_none_is_dropped():
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": None}}]}
    chosen = [call, {"role": "tool", "name": "f", "content": "4", "tool_calls": None}, assistant("It is 4.")]
    row = parse_row(pair(chosen=chosen), PLACE)
    assert row.completions[0] == [
        {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]},
        {"role": "tool", "name": "f", "content": "4"},
        assistant("It is 4."),
    ]


def test_parts_of_text_pass_as_they_are():
    parts = [{"type": "text", "text": "Yes", "image": None}]
    row = parse_row(pair(chosen=[assistant(parts)]), PLACE)
    assert row.completions[0] == [assistant([{"type": "text", "text": "Yes"}])]


@pytest.mark.parametrize("tools", [[{"name": "f", "unused": None}], '[{"name": "f"}]'])
def test_tools_as_list_or_as_json(tools):
    assert parse_row(pair(tools=tools), PLACE).tools == [{"name": "f"}]


@pytest.mark.parametrize("tools", [None, [], "[]"])
def test_no_tools(tools):
    assert parse_row(pair(tools=tools), PLACE).tools is None


@pytest.mark.parametrize("kwargs", [{"thinking": False, "unused": None}, '{"thinking": false}'])
def test_template_arguments_as_object_or_as_json(kwargs):
    assert parse_row(pair(chat_template_kwargs=kwargs), PLACE).chat_template_kwargs == {"thinking": False}
    assert parse_row(pair(chat_template_kwargs=None), PLACE).chat_template_kwargs == {}


def test_margin_and_weight_are_floats():
    row = parse_row(pair(margin=-1, weight=0), PLACE)
    assert (row.margin, row.weight) == (-1.0, 0.0)
    assert isinstance(row.margin, float)


def test_empty_text_is_left_to_the_drop_policy():
    assert parse_row(pair(chosen=[assistant("")]), PLACE).completions[0] == [assistant("")]
    assert parse_row({"chosen": "", "rejected": "a"}, PLACE).completions == ["", "a"]


@pytest.mark.parametrize(
    ("columns", "found", "expected"),
    [
        ({"chosen": None}, "`chosen` is None", "expected text or a list of messages"),
        ({"prompt": None}, "`prompt` is None", "remove the row or the column"),
        ({"rejected": 10**5000}, "`rejected` is int (", "expected text or a list of messages"),
        ({"rejected": 7}, "`rejected` is int 7", "expected text or a list of messages"),
        ({"chosen": []}, "`chosen` is a list []", "expected text or a list of messages"),
        ({"chosen": [assistant(None)]}, "`chosen[0].content` is None", "expected text"),
        ({"chosen": [{"role": "assistant"}]}, "`chosen[0].content` is None", "expected text"),
        ({"chosen": [assistant(5)]}, "`chosen[0].content` is int 5", "expected text"),
        ({"chosen": [assistant(True)]}, "`chosen[0].content` is a boolean True", "expected text"),
        ({"chosen": [assistant([])]}, "`chosen[0].content` is a list []", "expected text"),
        ({"chosen": [assistant(["x"])]}, "`chosen[0].content[0]` is text 'x'", "expected a part of type text"),
        (
            {"chosen": [assistant([{"type": "image", "text": "x"}])]},
            "`chosen[0].content[0]` is an object {'type': 'image'",
            "expected a part of type text",
        ),
        ({"chosen": ["Yes"]}, "`chosen[0]` is text 'Yes'", "expected a message"),
        (
            {"chosen": [{"role": "robot", "content": "x"}]},
            "`chosen[0].role` is text 'robot'",
            "one of system, user, assistant, tool, developer",
        ),
        ({"prompt": [{"role": "human", "content": "x"}]}, "`prompt[0].role` is text 'human'", "Write `user`"),
        ({"prompt": [{"from": "human", "value": "x"}]}, "`prompt[0].role` is None", "keys found are from, value"),
        (
            {"prompt": [user("Hi"), {"role": "user", "content": None, "tool_calls": [{"name": "f"}]}]},
            "`prompt[1].content` is None",
            "only an assistant turn",
        ),
        ({"prompt": [user("a"), assistant("b")]}, "`prompt[1].role` is text 'assistant'", "another role at the end"),
        (
            {"chosen": [user("Hi"), assistant("Yes")]},
            "`chosen[0].role` is text 'user'",
            "expected assistant at the start",
        ),
        (
            {"rejected": [assistant("No"), user("Why?")]},
            "`rejected[1].role` is text 'user'",
            "expected assistant at the end",
        ),
        ({"prompt": "Hi"}, "prompt is text, chosen is messages", "expected one form for all"),
        ({"chosen": "Yes", "rejected": "No"}, "prompt is messages, chosen is text", "expected one form for all"),
        ({"rejected": "No"}, "prompt is messages, rejected is text", "expected one form for all"),
        ({"tools": "[{"}, "`tools` is text '[{'", "expected JSON"),
        ({"tools": {"name": "f"}}, "`tools` is an object", "expected a list of objects"),
        ({"tools": ["f"]}, "`tools` is a list ['f']", "expected a list of objects"),
        ({"chat_template_kwargs": "[1]"}, "`chat_template_kwargs` is a list [1]", "expected an object"),
        ({"margin": None}, "`margin` is None", "Give every row a number, or remove the column"),
        ({"margin": "0.5"}, "`margin` is text '0.5'", "expected a number"),
        ({"margin": True}, "`margin` is a boolean True", "expected a number"),
        ({"margin": math.nan}, "`margin` is a number nan", "expected a finite number"),
        ({"margin": math.inf}, "`margin` is a number inf", "expected a finite number"),
        ({"margin": 1e39}, "`margin` is a number 1e+39", "expected a finite number"),
        ({"margin": 10**400}, "`margin` is int 1000", "expected a finite number"),
        ({"weight": -0.5}, "`weight` is a number -0.5", "expected 0 or more"),
    ],
)
def test_a_wrong_value_is_named_with_its_path(columns, found, expected):
    text = message_of(pair(**columns))
    assert found in text
    assert expected in text


def test_implicit_conversation_must_end_with_an_answer():
    text = message_of({"chosen": [user("Hi"), assistant("Yes"), user("Why?")], "rejected": [user("Hi")]})
    assert "`chosen[2].role` is text 'user' (expected assistant at the end)" in text


@pytest.mark.parametrize(
    ("columns", "path"),
    [
        ({"prompt": [user("a\ud800b")]}, "prompt[0].content"),
        ({"prompt": "a\ud800b", "chosen": "a", "rejected": "b"}, "prompt"),
        ({"tools": [{"name": "a\ud800b"}]}, "tools[0].name"),
        ({"tools": '[{"name": "a\\ud800b"}]'}, "tools[0].name"),
    ],
)
def test_a_lone_surrogate_is_named(columns, path):
    text = message_of(pair(**columns))
    assert f"`{path}` is text with a lone surrogate, '\\ud800', at character 1" in text
    text.encode("utf-8")


def test_a_row_without_chosen_lists_its_columns():
    text = message_of({"prompt": "Hi", "win": "a", "rejected": "b"})
    assert "no column `chosen` (columns found: prompt, win, rejected)" in text
    assert "needs `chosen` and `rejected`" in text


def test_check_columns():
    check_columns(["id", "chosen", "rejected"], "a.jsonl")
    check_columns(["chosen_ids", "rejected_ids"], "a.jsonl")
    with pytest.raises(DataError, match=r"^a\.jsonl: no column `chosen` and `rejected` \(columns found: j, k\)"):
        check_columns(["j", "k"], "a.jsonl")
    with pytest.raises(DataError, match=r"no column `chosen` and `rejected` \(columns found: none\)"):
        check_columns([], "a.jsonl")
    with pytest.raises(DataError, match="no column `chosen` and `rejected`"):
        check_columns(["chosen_input_ids", "rejected_ids"], "a.jsonl")


def test_token_id_columns():
    assert has_token_ids(["chosen_input_ids", "rejected_input_ids"]) == ("chosen_input_ids", "rejected_input_ids")
    assert has_token_ids(["rejected_ids", "chosen_ids"]) == ("chosen_ids", "rejected_ids")
    assert has_token_ids(["chosen_ids", "rejected_input_ids"]) is None


def test_token_row():
    row = parse_token_row({"chosen_ids": [1, 2], "rejected_ids": [1, 3], "weight": 2}, PLACE)
    assert (row.chosen_input_ids, row.rejected_input_ids, row.margin, row.weight) == ([1, 2], [1, 3], None, 2.0)


@pytest.mark.parametrize(
    ("ids", "found"),
    [
        ([], "`rejected_ids` is a list []"),
        (None, "`rejected_ids` is None"),
        ("12", "`rejected_ids` is text '12'"),
        ([1, -1], "`rejected_ids[1]` is int -1"),
        ([1, 2**31], "`rejected_ids[1]` is int 2147483648"),
        ([1.0], "`rejected_ids[0]` is a number 1.0"),
        ([1, True], "`rejected_ids[1]` is a boolean True"),
    ],
)
def test_wrong_token_ids_are_named(ids, found):
    with pytest.raises(DataError) as caught:
        parse_token_row({"chosen_ids": [1], "rejected_ids": ids}, PLACE)
    assert str(caught.value).startswith(f"{PLACE}: {found} (expected a")


def test_token_row_without_token_ids():
    with pytest.raises(DataError, match=r"row 3: no token id columns \(columns found: chosen;"):
        parse_token_row({"chosen": "a"}, PLACE)


def test_prompt_key_is_equal_for_both_spellings_and_for_nothing_else():
    implicit = {"chosen": [user("Hi"), assistant("Yes")], "rejected": [user("Hi"), assistant("No")]}
    key = prompt_key(parse_row(pair(), PLACE))
    assert key == prompt_key(parse_row(implicit, PLACE)) == '[["user", "Hi"]]'
    assert key != prompt_key(parse_row(pair(prompt=[{"role": "system", "content": "Hi"}]), PLACE))
    assert prompt_key(parse_row({"prompt": "Hi", "chosen": "a", "rejected": "b"}, PLACE)) == "Hi"
    assert prompt_key(parse_row({"chosen": "a", "rejected": "b"}, PLACE)) is None
    assert prompt_key(parse_row({"chosen": [assistant("a")], "rejected": [assistant("b")]}, PLACE)) is None


def test_completions_are_a_pair_or_a_group():
    assert parse_row({"prompt": [user("Hi")], "completions": [assistant("Yes"), [assistant("No")]]}, PLACE) == (
        parse_row(pair(), PLACE)
    )
    turns = [user("Hi"), assistant("Hello"), user("Well?")]
    row = parse_row({"completions": [[*turns, assistant(text)] for text in "abc"]}, PLACE)
    assert (row.prompt, row.completions) == (turns, [[assistant(text)] for text in "abc"])
    assert parse_row({"prompt": "Hi", "completions": ["a", "b", "c"]}, PLACE).completions == ["a", "b", "c"]
    check_columns(["completions"], "a.jsonl")


def test_completions_are_sorted_by_scores_and_labels_are_not():
    row = parse_row({"completions": ["a", "b", "c", "d"], "scores": [1, 3, 2, 3]}, PLACE)
    assert (row.completions, row.scores) == (["b", "d", "c", "a"], [3.0, 3.0, 2.0, 1.0])
    row = parse_row({"chosen": "a", "rejected": "b", "scores": [1, 2]}, PLACE)
    assert (row.completions, row.scores) == (["a", "b"], [1.0, 2.0])
    row = parse_token_row({"completion_input_ids": [[1], [2], [3]], "scores": [1, 2, 3]}, PLACE)
    assert (row.completions, row.chosen_input_ids, row.rejected_input_ids) == ([[3], [2], [1]], [3], [1])


def test_judgements_of_a_pair():
    row = parse_row(pair(chosen_probability=0.25, tie=True), PLACE)
    assert (row.chosen_probability, row.tie) == (0.25, True)
    assert [parse_row(pair(tie=tie), PLACE).tie for tie in (0, 1, False, None)] == [False, True, False, False]
    ids = {"chosen_ids": [1], "rejected_ids": [2], "chosen_probability": 1, "tie": False, "scores": [4, 1]}
    row = parse_token_row(ids, PLACE)
    assert (row.chosen_probability, row.tie, row.scores) == (1.0, False, [4.0, 1.0])


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({"completions": ["a"]}, "`completions` is a list ['a'] (expected a list of two or more)"),
        ({"completions": "ab"}, "`completions` is text 'ab' (expected a list of two or more)"),
        ({"completions": ["a", None]}, "`completions[1]` is None (expected text or a list of messages)"),
        ({"completions": ["a", [assistant("b")]]}, "completions[0] is text, completions[1] is messages"),
        ({"prompt": [user("a")], "completions": [[assistant("b")], [user("c")]]}, "`completions[1][0].role` is text"),
        ({"completions": ["a", "b"], "scores": [1]}, "`scores` is a list [1] (expected a list of 2 numbers)"),
        ({"completions": ["a", "b"], "scores": [1, None]}, "`scores[1]` is None (expected a number)"),
        ({"completions": ["a", "b"], "scores": [1, math.nan]}, "`scores[1]` is a number nan (expected a finite"),
        ({"completions": ["a", "b", "c"], "tie": True}, "`tie` is a boolean True (expected nothing beside 3 compl"),
        ({"completions": ["a", "b", "c"], "chosen_probability": 1}, "`chosen_probability` is int 1 (expected nothing"),
        (pair(chosen_probability=1.5), "`chosen_probability` is a number 1.5 (expected a probability from 0 to 1)"),
        (pair(chosen_probability=None), "`chosen_probability` is None (expected a number)"),
        (pair(tie="yes"), "`tie` is text 'yes' (expected true or false)"),
        (pair(tie=2), "`tie` is int 2 (expected true or false)"),
    ],
)
def test_wrong_completions_and_judgements_are_named(row, found):
    assert message_of(row).startswith(f"{PLACE}: {found}")


def test_wrong_token_ids_of_a_group_are_named():
    with pytest.raises(DataError, match=r"row 3: `completion_input_ids\[1\]\[0\]` is text 'x' \(expected a token id"):
        parse_token_row({"completion_input_ids": [[1], ["x"]]}, PLACE)
    with pytest.raises(DataError, match=r"`completion_input_ids` is a list \[\[1\]\] \(expected a list of two"):
        parse_token_row({"completion_input_ids": [[1]]}, PLACE)
