"""The generated preference task: balanced, without overlap, and true to its own rule."""

import itertools
import json
from collections import Counter

import pytest

from hf_reward.errors import ConfigurationError
from hf_reward.quickstart.task import STYLES, follows, generate_pairs, train_and_heldout, write_jsonl


def text(row, column):
    (message,) = row[column]
    return message["content"]


def style_of(completion):
    # capitals and lower case end in a full stop; the checks of the four styles exclude each other
    (found,) = [index for index, style in enumerate(STYLES) if style.check(completion)]
    return found


def test_rows_are_chats():
    for row in generate_pairs(12, seed=1):
        assert {column: [message["role"] for message in row[column]] for column in row} == {
            "prompt": ["user"],
            "chosen": ["assistant"],
            "rejected": ["assistant"],
        }


def test_the_seed_decides_the_pairs():
    assert generate_pairs(50, seed=3) == generate_pairs(50, seed=3)
    assert generate_pairs(50, seed=3) != generate_pairs(50, seed=4)
    assert train_and_heldout(50, 20, seed=3) == train_and_heldout(50, 20, seed=3)


@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
def test_chosen_keeps_the_instruction_and_rejected_breaks_it(seed):
    for rows in train_and_heldout(seed=seed):
        assert {follows(text(row, "prompt"), text(row, "chosen")) for row in rows} == {True}
        assert {follows(text(row, "prompt"), text(row, "rejected")) for row in rows} == {False}


def test_both_sides_say_the_same_words_in_the_same_length():
    for row in generate_pairs(500, seed=1):
        chosen, rejected = text(row, "chosen"), text(row, "rejected")
        assert chosen[:-1].lower() == rejected[:-1].lower()
        assert len(chosen.encode()) == len(rejected.encode())


@pytest.mark.parametrize("count", [1, 7, 12, 500, 2000, 2001])
def test_every_style_is_chosen_and_rejected_equally_often(count):
    rows = generate_pairs(count, seed=1)
    assert len(rows) == count
    for column in ("chosen", "rejected"):
        per_style = Counter(style_of(text(row, column)) for row in rows)
        counts = [per_style[index] for index in range(len(STYLES))]
        assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
def test_no_ranking_of_the_styles_beats_one_half(seed):
    for rows in train_and_heldout(seed=seed):
        pairs = Counter((style_of(text(row, "chosen")), style_of(text(row, "rejected"))) for row in rows)
        assert len(pairs) == 12
        for ranking in itertools.permutations(range(len(STYLES))):
            wins = sum(count for (chosen, rejected), count in pairs.items() if ranking[chosen] > ranking[rejected])
            assert wins / len(rows) == 0.5


@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
def test_no_prompt_occurs_twice(seed):
    train, heldout = train_and_heldout(seed=seed)
    assert (len(train), len(heldout)) == (2000, 500)
    assert len({text(row, "prompt") for row in train + heldout}) == 2500


def test_excluded_prompts_do_not_occur():
    excluded = frozenset(text(row, "prompt") for row in generate_pairs(100, seed=1))
    kept = {text(row, "prompt") for row in generate_pairs(100, seed=1, exclude_prompts=excluded)}
    assert len(kept) == 100
    assert not kept & excluded


def test_more_pairs_than_prompts_are_refused():
    with pytest.raises(ConfigurationError, match=r"count is 1000000; this task has between 0 and \d+ different"):
        generate_pairs(1_000_000, seed=1)
    with pytest.raises(ConfigurationError, match="count is -1"):
        generate_pairs(-1, seed=1)


def test_a_prompt_of_another_task_is_refused():
    with pytest.raises(ConfigurationError, match="'Reply in capitals'"):
        follows("Reply in verse: how is the red boat?", "THE BOAT IS DRY.")


def test_written_rows_are_read_back(tmp_path):
    rows = generate_pairs(20, seed=1)
    rows[0]["prompt"][0]["content"] += " ☕"
    write_jsonl(rows, tmp_path / "pairs.jsonl")
    lines = (tmp_path / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == rows
    assert "☕" in lines[0]
