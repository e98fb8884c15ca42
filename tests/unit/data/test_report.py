import logging
import tracemalloc

import numpy as np
import pytest
from datasets import Dataset

from hf_reward.data.accounts import SplitRows
from hf_reward.data.columns import PREPARED_COLUMNS, make_features
from hf_reward.data.filters import Filters
from hf_reward.data.lengths import LengthLimits
from hf_reward.data.reading import detect_reader
from hf_reward.data.report import check_dropped, split_report
from hf_reward.data.tokenization import RowRules, tokenize_dataset
from hf_reward.errors import DataError


def pair(chosen, rejected):
    return {"prompt": "q: ", "chosen": chosen, "rejected": rejected}


def split(tokenizer, *sources, max_length=None):
    rules = RowRules(LengthLimits(max_length))
    parts = []
    for rows in sources:
        dataset = Dataset.from_list(rows)
        parts.append(tokenize_dataset(dataset, detect_reader(dataset, "pairs"), tokenizer, "pairs", rules))
    return SplitRows.join(parts, [f"source {number}" for number in range(len(parts))])


def test_rows_are_counted_by_source_and_reason(tokenizer):
    rows = split(tokenizer, [pair("a", "b"), pair("a", "a"), pair("", "b")], [pair("long " * 9, "b")], max_length=20)
    report = split_report(rows, 20)
    assert (report["rows"], report["kept"]) == (4, 1)
    assert report["dropped"] == {"empty": 1, "identical": 1, "too_long": 1}
    assert report["sources"] == {
        "source 0": {"rows": 3, "kept": 1, "dropped": {"empty": 1, "identical": 1}},
        "source 1": {"rows": 1, "kept": 0, "dropped": {"too_long": 1}},
    }


def test_lengths_are_those_of_prompt_and_completions(tokenizer):
    report = split_report(split(tokenizer, [pair("abcd", "ab"), pair("ax", "ay")]), None)
    assert report["tokens"]["prompt"] == {"mean": 3.0, "p5": 3, "p50": 3, "p95": 3, "max": 3}
    assert report["tokens"]["chosen"] == {"mean": 4.0, "p5": 3, "p50": 3, "p95": 5, "max": 5}
    assert report["tokens"]["rejected"]["mean"] == 3.0
    # Of 8 + 6 + 6 + 6 tokens the prompts stand there twice, and so do the first letters of the completions.
    assert report["shared_prompt_tokens"] == round(6 / 26, 4)
    assert report["shared_prefix_tokens"] == round((5 + 4) / 26, 4)
    assert report["longer_is_chosen"] == 0.75


def test_a_group_spares_its_prompt_for_every_completion_but_one(tokenizer):
    report = split_report(split(tokenizer, [{"prompt": "q: ", "completions": ["a", "b", "c"]}]), None)
    assert report["shared_prompt_tokens"] == round(3 * 2 / 15, 4)


def test_notes_are_counted(tokenizer):
    report = split_report(split(tokenizer, [pair("a<eos>b", "c"), pair("a", "b")]), None)
    assert report["notes"] == {"special_tokens_in_content": 1}


def test_rows_set_apart_are_counted_in_their_own_split(tokenizer):
    train = split(tokenizer, [pair("a", "b"), pair("c", "d"), pair("e", "e")])
    evaluation = train.set_apart(np.array([True, False, True]))
    assert [split_report(rows, None)["rows"] for rows in (train, evaluation)] == [2, 1]
    assert split_report(train, None)["dropped"] == {"identical": 1}
    assert split_report(evaluation, None)["dropped"] == {}
    assert [tokenizer.decode(rows.dataset()[0]["chosen_input_ids"]) for rows in (train, evaluation)] == [
        "q: c<eos>",
        "q: a<eos>",
    ]


def test_the_rows_to_train_on_have_the_columns_of_training(tokenizer):
    dataset = split(tokenizer, [pair("a", "b"), pair("e", "e")]).dataset()
    assert set(dataset.column_names) == {*PREPARED_COLUMNS, "chosen_input_ids", "rejected_input_ids"}
    assert len(dataset) == 1


def test_no_more_than_forty_bytes_a_row_are_held_in_memory(tmp_path):
    count, random = 100_000, np.random.default_rng(0)
    features = make_features(groups=False, extra=[])
    numbers = {name: random.integers(1, 9, count) for name in features if name not in ("notes", "drop_reason")}
    keys = {name: random.integers(-(2**62), 2**62, count) for name in ("order_key", "set_key")}
    others = {"notes": [0] * count, "chosen_input_ids": [[1]] * count, "rejected_input_ids": [[2]] * count}
    reasons = np.where(random.random(count) < 0.02, "identical", "")
    raw = Dataset.from_dict(numbers | keys | others | {"drop_reason": reasons}, features)
    dataset = raw.map(lambda batch: batch, batched=True, cache_file_name=str(tmp_path / "rows.arrow"))
    tracemalloc.start()
    try:
        rows = SplitRows.join([dataset], ["pairs"])
        for reason, found in Filters().reasons(rows.number, rows.source, rows.kept).items():
            rows.drop(found, reason)
        check_dropped(rows, "train", None)
        assert len(rows.dataset()) == split_report(rows, None)["kept"] < count
        assert tracemalloc.get_traced_memory()[1] < 40 * count
    finally:
        tracemalloc.stop()


def test_all_rows_dropped_is_an_error_with_the_lengths(tokenizer):  # fault 23
    rows = split(tokenizer, [pair("abc", "b"), pair("abcd", "b")], max_length=2)
    expected = r"train: 0 of 2 pairs are left \(too_long: 2; shortest pair 7 tokens, max_length 2\)"
    with pytest.raises(DataError, match=expected):
        check_dropped(rows, "train", 2)


def test_more_than_half_dropped_is_a_warning_with_the_numbers(tokenizer, caplog):  # fault 24
    rows = split(tokenizer, [pair("a", "b"), pair("abcd", "b"), pair("abcde", "b")], max_length=5)
    with caplog.at_level(logging.INFO):
        check_dropped(rows, "train", 5)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "train: more than half, 2 of 3 pairs dropped (too_long: 2); "
        "lengths p50 8, p95 9, longest 9 tokens, max_length 5"
    )


def test_fewer_dropped_is_said_and_none_is_nothing(tokenizer, caplog):
    with caplog.at_level(logging.INFO):
        check_dropped(split(tokenizer, [pair("a", "b"), pair("e", "e")]), "train", None)
        check_dropped(split(tokenizer, [pair("a", "b")]), "eval", None)
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()[:29]) == (logging.WARNING, "train: 1 of 2 pairs dropped (")
