import numpy as np
import pytest
from datasets import Dataset

from hf_reward.data.accounts import SplitRows
from hf_reward.data.filters import Filters, find_contradictory, find_duplicates
from hf_reward.data.reading import detect_reader
from hf_reward.data.tokenization import RowRules, tokenize_dataset


def pair(chosen, rejected, prompt="q", row=1):
    return {"prompt": f"{prompt} ", "chosen": chosen, "rejected": rejected, "source_row": row}


def split(tokenizer, *sources):
    parts = []
    for rows in sources:
        dataset = Dataset.from_list(rows)
        parts.append(tokenize_dataset(dataset, detect_reader(dataset, "pairs"), tokenizer, "pairs", RowRules()))
    return SplitRows.join(parts, [f"source {number}" for number in range(len(parts))])


def reasons(rows, filters):
    found = filters.reasons(rows.number, rows.source, rows.kept)
    return [next((name for name, mask in found.items() if mask[row]), "") for row in range(len(rows.reason))]


def test_the_same_pair_in_both_orders_is_dropped_in_both(tokenizer):  # fault 19
    rows = split(tokenizer, [pair("a", "b", row=1), pair("b", "a", row=2), pair("a", "c", row=3)])
    assert reasons(rows, Filters()) == ["contradictory", "contradictory", ""]
    assert reasons(rows, Filters(drop_contradictory=False)) == ["", "", ""]


def test_the_same_completions_of_another_prompt_contradict_nothing(tokenizer):
    rows = split(tokenizer, [pair("a", "b", "one", 1), pair("b", "a", "two", 2)])
    assert reasons(rows, Filters()) == ["", ""]


def test_of_equal_pairs_the_first_is_kept_over_all_sources(tokenizer):
    rows = split(
        tokenizer, [pair("a", "b", row=1), pair("a", "b", row=2)], [pair("a", "b", row=1), pair("c", "d", row=2)]
    )
    assert reasons(rows, Filters()) == ["", "duplicate", "duplicate", ""]
    assert reasons(rows, Filters(drop_duplicates=False)) == ["", "", "", ""]


def test_copies_that_an_amount_asks_for_stay(tokenizer):
    rows = split(
        tokenizer, [pair("a", "b", row=1), pair("a", "b", row=1), pair("a", "b", row=2), pair("a", "b", row=1)]
    )
    assert reasons(rows, Filters()) == ["", "", "duplicate", ""]


def test_dropped_rows_contradict_nothing(tokenizer):
    rows = split(tokenizer, [pair("a", "b", row=1), pair("b", "a", row=2)])
    assert rows.drop(np.array([True, False]), "too_long") == 1
    assert reasons(rows, Filters()) == ["", ""]
    assert rows.drop(np.array([True, True]), "other") == 1
    assert rows.counts()["source 0"].dropped == {"too_long": 1, "other": 1}


def test_groups_contradict_if_their_ranking_differs(tokenizer):
    ranked = [{"prompt": "q ", "completions": list(letters)} for letters in ("abc", "acb", "abd", "abc")]
    rows = split(tokenizer, [row | {"source_row": number} for number, row in enumerate(ranked)])
    assert reasons(rows, Filters()) == ["contradictory", "contradictory", "", "contradictory"]
    found = Filters().reasons(rows.number, rows.source, rows.kept)
    assert not (found["contradictory"] & found["duplicate"]).any()


@pytest.mark.parametrize("count", [0, 1])
def test_few_rows_are_no_trouble(count):
    keys = np.arange(count)
    assert find_contradictory(keys, keys).tolist() == [False] * count
    assert find_duplicates(keys, keys, keys).tolist() == [False] * count


@pytest.mark.parametrize("seed", range(3))
def test_looking_part_by_part_finds_what_looking_at_all_finds(seed):
    random = np.random.default_rng(seed)
    order, sets = random.integers(-40, 40, 500), random.integers(-60, 60, 500)
    source, rows = np.sort(random.integers(0, 2, 500)).astype(np.int32), random.integers(0, 300, 500)
    columns = {"order_key": order, "set_key": sets, "source_row": rows}
    usable = random.random(500) < 0.9
    found = Filters().reasons(lambda name, rows: columns[name][rows], source, usable)
    contradictory = np.zeros(500, dtype=bool)
    contradictory[usable] = find_contradictory(sets[usable], order[usable])
    left = np.flatnonzero(usable & ~contradictory)
    duplicate = np.zeros(500, dtype=bool)
    duplicate[left] = find_duplicates(order[left], source[left], rows[left])
    assert found["contradictory"].tolist() == contradictory.tolist()
    assert found["duplicate"].tolist() == duplicate.tolist()
    assert 0 < contradictory.sum() < 500
