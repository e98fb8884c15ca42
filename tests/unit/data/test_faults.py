"""Bad input, as files that a recipe names: what is said, or counted; the numbers are those of the fault catalogue."""

import copy
import json
import logging

import datasets
import pytest
from datasets import Dataset
from pyarrow import parquet

from hf_reward.config import DataArguments
from hf_reward.data.filters import Filters
from hf_reward.data.loading import load_sources
from hf_reward.data.preparation import prepare_split
from hf_reward.data.tokenization import RowRules
from hf_reward.errors import ConfigurationError, DataError


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


GOOD = {"prompt": [user("Hi")], "chosen": [assistant("Yes")], "rejected": [assistant("No")]}
TEXT = {"prompt": "Hi", "chosen": "Yes", "rejected": "No"}


@pytest.fixture
def prepared(tmp_path, shared_tokenizer):
    """Tokenised rows of a file with these rows."""

    def prepare(rows, name="p.jsonl", **arguments):
        path = tmp_path / name
        if name.endswith(".parquet"):
            Dataset.from_list(rows).to_parquet(path)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        sources = load_sources(DataArguments(dataset_name=str(path), **arguments), "train")
        return prepare_split(sources, copy.deepcopy(shared_tokenizer), "train", RowRules(), Filters())

    return prepare


@pytest.fixture
def message_of(prepared):
    def message(rows, kind=DataError, **arguments):
        with pytest.raises(kind) as caught:
            prepared(rows, **arguments)
        return str(caught.value)

    return message


@pytest.fixture
def dropped(prepared):
    """What is dropped of these rows, beside one that is kept."""

    def drop(*rows, **arguments):
        keep = {key: [{**turn, "content": "kept " + turn["content"]} for turn in GOOD[key]] for key in GOOD}
        (count,) = prepared([keep, *rows], **arguments).counts().values()
        assert count.rows == 1 + len(rows)
        return dict(count.dropped)

    return drop


def test_fault_11_a_missing_column(message_of):
    message = message_of([{"prompt": "Hi", "good": "a", "rejected": "b"}])
    assert message.startswith("p.jsonl: no column `chosen` (columns found: prompt, good, rejected). A preference pair")
    assert message.endswith('rename the columns by `column_map: {"theirs": "chosen"}`.')


@pytest.mark.parametrize("name", ["p.jsonl", "p.parquet"])
@pytest.mark.parametrize("column", ["prompt", "chosen", "rejected"])
def test_fault_12_an_empty_cell(message_of, name, column):
    message = message_of([GOOD, GOOD | {column: None}], name=name)
    assert message.startswith(f"{name}, row 2: `{column}` is None (expected text or a list of messages)")


def test_fault_13_no_content(message_of):
    message = message_of([GOOD, GOOD | {"chosen": [assistant(None)]}])
    assert message.startswith("p.jsonl, row 2: `chosen[0].content` is None (expected text)")


@pytest.mark.parametrize(
    ("row", "found"),
    [
        (GOOD | {"chosen": [assistant(5)]}, "`chosen[0].content` is int 5 (expected text)"),
        (GOOD | {"prompt": [user("a"), user(["x"])]}, "`prompt[1].content[0]` is text 'x' (expected a part of type"),
        (TEXT | {"chosen": 7}, "`chosen` is int 7 (expected text or a list of messages)"),
    ],
)
def test_fault_14_content_that_is_no_text(message_of, row, found):
    good = TEXT if isinstance(row["prompt"], str) else GOOD
    assert message_of([good, good, row]).startswith(f"p.jsonl, row 3: {found}")


def test_fault_15_an_unknown_role(message_of):
    message = message_of([GOOD, GOOD | {"prompt": [{"role": "robot", "content": "Hi"}]}])
    assert message.startswith("p.jsonl, row 2: `prompt[0].role` is text 'robot' (expected one of system, user, assist")


def test_fault_16_text_and_messages_in_one_file(message_of):
    message = message_of([GOOD, GOOD, TEXT])
    assert message.startswith("p.jsonl, row 3: `chosen` is text, in the first row it is messages (expected one form")
    message = message_of([GOOD | {"prompt": "Hi"}])
    assert message.startswith("p.jsonl, row 1: prompt is text, chosen is messages (expected one form for all)")
    message = message_of([TEXT, TEXT | {"rejected": [assistant("No")]}])
    assert message.startswith("p.jsonl, row 2: prompt is text, rejected is messages (expected one form for all)")


def test_fault_17_an_empty_response(dropped):
    assert dropped(GOOD | {"chosen": [assistant("")]}, GOOD | {"rejected": [assistant(" \n")]}) == {"empty": 2}


def test_fault_18_equal_responses(dropped):
    assert dropped(GOOD | {"rejected": GOOD["chosen"]}) == {"identical": 1}


def test_fault_19_a_pair_in_both_orders(dropped, caplog):
    with caplog.at_level(logging.WARNING):
        assert dropped(GOOD, GOOD | {"chosen": GOOD["rejected"], "rejected": GOOD["chosen"]}) == {"contradictory": 2}
    assert "2 pairs stand in both orders" in caplog.text


def test_fault_20_a_lone_surrogate(message_of, dropped):
    bad = GOOD | {"chosen": [assistant("a\ud800b")]}
    message = message_of([GOOD, bad])
    assert message.startswith(
        "p.jsonl, line 2: `chosen[0].content`: found the lone surrogate '\\ud800' (expected text"
    )
    assert dropped(bad, on_bad_row="drop") == {"bad_row": 1}


def test_fault_22_no_rows(tmp_path, message_of):
    assert message_of([]).startswith("p.jsonl: the file is empty (expected preference pairs)")
    path = tmp_path / "none.parquet"
    parquet.write_table(Dataset.from_list([GOOD]).with_format("arrow")[:].slice(0, 0), path)
    with pytest.raises(DataError, match=r"^none\.parquet: the file is empty"):
        load_sources(DataArguments(dataset_name=str(path)), "train")


def test_fault_26_a_missing_evaluation_split(tmp_path):
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(GOOD))
    arguments = DataArguments(dataset_name=str(tmp_path), dataset_test_split="validation")
    with pytest.raises(ConfigurationError, match=r"found no split validation; expected one of test, train"):
        load_sources(arguments, "eval")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("NaN", "a number nan (expected a finite number)"),
        ("Infinity", "a number inf (expected a finite number)"),
        ("1e39", "a number 1e+39 (expected a finite number)"),
        ('"0.5"', "text '0.5' (expected a number)"),
        ("null", "None (expected a number)"),
        (None, "None (expected a number)"),
    ],
)
def test_fault_29_a_margin_that_is_no_number(tmp_path, text, found):
    good, bad = json.dumps(GOOD | {"margin": 1}), json.dumps(GOOD)
    bad = bad if text is None else f'{bad[:-1]}, "margin": {text}}}'
    (tmp_path / "p.jsonl").write_text(f"{good}\n{bad}\n")
    (source,) = load_sources(DataArguments(dataset_name=str(tmp_path / "p.jsonl")), "train")
    with pytest.raises(DataError) as caught:
        [source.reader(row, f"p.jsonl, row {row['source_row']}") for row in source.dataset]
    assert str(caught.value).startswith(f"p.jsonl, row 2: `margin` is {found}")


def test_a_negative_margin_is_a_note(prepared):
    rows = prepared([GOOD | {"margin": -1.5}])
    assert (rows.dataset()["margin"][:], rows.notes()["negative_margin"]) == ([-1.5], 1)


def test_an_empty_list_of_token_ids(message_of):
    ids = {"chosen_ids": [5, 2], "rejected_ids": [6, 2]}
    message = message_of([ids, ids | {"rejected_ids": []}])
    assert message.startswith("p.jsonl, row 2: `rejected_ids` is a list [] (expected a non-empty list of token ids)")


def test_roles_at_the_wrong_place(message_of):
    message = message_of([GOOD | {"prompt": [user("Hi"), assistant("Yes")]}])
    assert message.startswith(
        "p.jsonl, row 1: `prompt[1].role` is text 'assistant' (expected another role at the end)"
    )
    message = message_of([GOOD | {"chosen": [user("Hi"), assistant("Yes")]}])
    assert message.startswith("p.jsonl, row 1: `chosen[0].role` is text 'user' (expected assistant at the start)")


def test_unusual_text_is_fine(prepared):
    texts = ["nul \0", "emoji \U0001f600", "שלום"]
    assert len(prepared([TEXT | {"prompt": text} for text in texts]).dataset()) == 3


def test_every_fault_of_a_row_can_be_dropped_and_counted(dropped):
    faults = [
        GOOD | {"chosen": None},
        GOOD | {"chosen": [assistant(None)]},
        GOOD | {"chosen": [assistant(5)]},
        GOOD | {"prompt": [{"role": "robot", "content": "Hi"}]},
        TEXT,
    ]
    assert dropped(*faults, on_bad_row="drop") == {"bad_row": 5}
