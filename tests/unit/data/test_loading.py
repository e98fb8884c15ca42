"""Sources: what a name may be, what is read from it, how much is taken, and what is said when it cannot be read."""

import csv
import gzip
import io
import json
import logging
import os

import datasets
import numpy as np
import pyarrow
import pytest
from datasets import Dataset, DatasetDict, IterableDataset, Value
from pyarrow import parquet

from hf_reward.config.data_arguments import DataArguments
from hf_reward.data.loading import load_eval_sets, load_sources
from hf_reward.data.mixing import split_by_prompt, take_amount, take_from_stream
from hf_reward.data.ranked import Dropped
from hf_reward.errors import ConfigurationError, DataError


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def rows_of(count, mark=""):
    return [
        {
            "prompt": [{"role": "user", "content": f"question {mark}{n}"}],
            "chosen": [{"role": "assistant", "content": f"good {n}"}],
            "rejected": [{"role": "assistant", "content": f"bad {n}"}],
        }
        for n in range(count)
    ]


def write_lines(path, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    data = text.encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return str(path)


def write(path, rows):
    if path.suffix == ".parquet":
        Dataset.from_list(rows).to_parquet(path)
        return str(path)
    if path.suffix == ".arrow":
        table = Dataset.from_list(rows).with_format("arrow")[:]
        with pyarrow.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table)
        return str(path)
    if ".csv" in path.suffixes:
        lines = io.StringIO()
        writer = csv.DictWriter(lines, list(rows[0]))
        writer.writeheader()
        writer.writerows({key: json.dumps(value) for key, value in row.items()} for row in rows)
        data = lines.getvalue().encode()
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
        return str(path)
    if ".json" in path.suffixes:
        data = json.dumps(rows, indent=1).encode()
        path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
        return str(path)
    return write_lines(path, rows)


def load(name, which="train", **arguments):
    (source,) = load_sources(DataArguments(dataset_name=str(name), **arguments), which)
    return source


def plain(dataset):
    return dataset.remove_columns("source_row").to_list()


def error_of(name, kind=DataError, which="train", **arguments):
    with pytest.raises(kind) as caught:
        load(name, which, **arguments)
    return str(caught.value)


@pytest.mark.parametrize(
    "name", ["p.jsonl", "p.jsonl.gz", "p.json", "p.json.gz", "p.parquet", "p.arrow", "p.csv", "p.csv.gz"]
)
def test_every_kind_of_file_gives_the_same_rows(tmp_path, name):
    source = load(write(tmp_path / name, rows_of(5)))
    assert (source.name, source.split) == (name, "train")
    assert plain(source.dataset) == rows_of(5)
    assert source.dataset["source_row"][:] == [1, 2, 3, 4, 5]


def test_json_lines_may_be_called_json(tmp_path):
    assert plain(load(write_lines(tmp_path / "p.json", rows_of(3))).dataset) == rows_of(3)


def test_blank_lines_count_and_a_byte_order_mark_does_not(tmp_path):
    lines = [json.dumps(row) for row in rows_of(2)]
    (tmp_path / "p.jsonl").write_text(f"\ufeff\n{lines[0]}\r\n   \n{lines[1]}", encoding="utf-8")
    dataset = load(tmp_path / "p.jsonl").dataset
    assert plain(dataset) == rows_of(2)
    assert dataset["source_row"][:] == [2, 4]


def test_columns_that_some_rows_lack_or_write_otherwise_keep_their_values(tmp_path):
    rows = rows_of(3)
    call = [{"type": "function", "function": {"name": "f", "arguments": {"x": "1"}}}]
    rows[0]["chosen"] = [{"role": "assistant", "content": "4", "tool_calls": call}]
    rows[0] |= {"margin": 1, "id": 7, "tools": [{"name": "f", "default": 5}], "big": 2**70}
    rows[1] |= {"margin": 0.5, "id": "7", "tools": '[{"name": "f"}]'}
    rows[2] |= {"margin": 2, "id": None, "note": "12"}
    dataset = load(write_lines(tmp_path / "p.jsonl", rows)).dataset
    assert (dataset["margin"][:], dataset.features["margin"]) == ([1.0, 0.5, 2.0], Value("float64"))
    assert dataset["id"][:] == [7, "7", None]
    assert dataset["tools"][:] == [[{"name": "f", "default": 5}], '[{"name": "f"}]', None]
    assert dataset["note"][:] == [None, None, "12"]
    assert dataset["chosen"][:] == [row["chosen"] for row in rows]


@pytest.mark.parametrize("name", ["p.jsonl", "p.jsonl.gz", "p.json", "p.parquet"])
def test_an_edited_file_of_the_same_length_and_date_is_read_anew(tmp_path, name):
    path = tmp_path / name

    def write_marked(mark):
        if path.suffix == ".parquet":
            parquet.write_table(Dataset.from_list(rows_of(20, mark)).data.table, path, compression="none")
        elif path.suffix == ".gz":
            data = "".join(json.dumps(row) + "\n" for row in rows_of(20, mark)).encode()
            path.write_bytes(gzip.compress(data, compresslevel=0, mtime=0))
        else:
            write(path, rows_of(20, mark))
        os.utime(path, ns=(10**18, 10**18))

    write_marked("a")
    before = path.stat()
    assert plain(load(path).dataset) == rows_of(20, "a")
    write_marked("b")
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert plain(load(path).dataset) == rows_of(20, "b")


def test_an_unchanged_file_is_not_written_to_the_cache_again(tmp_path):
    path = write_lines(tmp_path / "p.jsonl", rows_of(3))
    assert load(path).dataset.cache_files == load(path).dataset.cache_files != []


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "p.jsonl: the file is empty"),
        (b"\n  \n", "p.jsonl: the file is empty"),
        (b'{"chosen": "a"}\n\n{"chosen": \n', "p.jsonl, line 3: not JSON: Expecting value"),
        (b'{"chosen": "a"}\n["a"]\n', "p.jsonl, line 2: found a list (expected a JSON object"),
        (b"null\n", "p.jsonl, line 1: found null (expected a JSON object"),
        (b'{"a": ' + b"9" * 5000 + b"}\n", "p.jsonl, line 1: not JSON: Exceeds the limit"),
        (b'{"a": ' * 100_000, "p.jsonl, line 1: not JSON: maximum recursion depth"),
        (b'{"a": "b"}\n{"a": "\xff"}\n', "p.jsonl, line 2: found the byte 0xff at position 8 (expected UTF-8 text)"),
        (b'{"a": "b"}\n{"a": "\\uD800"}\n', "p.jsonl, line 2: `a`: found the lone surrogate '\\ud800'"),
    ],
)
def test_a_bad_line_is_named(tmp_path, content, expected):
    (tmp_path / "p.jsonl").write_bytes(content)
    message = error_of(tmp_path / "p.jsonl")
    assert message.startswith(expected)
    assert len(message) < 400


def test_an_escaped_pair_of_surrogates_is_one_character(tmp_path):
    (tmp_path / "p.jsonl").write_bytes(b'{"chosen": "\\ud83d\\ude00", "rejected": "b"}\n')
    assert load(tmp_path / "p.jsonl").dataset["chosen"][:] == ["\U0001f600"]


def read_all(source):
    """What the reader makes of every row of a source."""
    return [entry for row in source.dataset for entry in source.reader(row, f"{source.name}, row {row['source_row']}")]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("p.jsonl.gz", b'{"chosen": "a"}', "p.jsonl.gz: cannot be unpacked: Not a gzipped file"),
        (
            "p.jsonl.gz",
            gzip.compress(b'{"chosen": "a"}' * 99, mtime=0)[:-9],
            "p.jsonl.gz: cannot be unpacked: Compressed file",
        ),
        ("p.parquet", b"nothing", "p.parquet: not readable as Parquet"),
        ("p.txt", b"a,b", "p.txt: cannot read this kind of file here (expected .jsonl, .json, .jsonl.gz, .json.gz"),
        ("p.csv", b"a,b", "p.csv: the file is empty"),
        ("p.csv", b"a,b\n1,2\n1\n", "p.csv, row 2: found 1 fields (expected 2, one for each column)"),
        ("p.csv", b'a,b\n1,"2\n', "p.csv, line 2: not CSV: unexpected end of data"),
        ("p.csv", b"a,b\n1,\xff\n", "p.csv: found the byte 0xff at position 7 (expected UTF-8 text)"),
        ("p.arrow", b"nothing", "p.arrow: not readable as Arrow"),
        ("p.json", b"[]", "p.json: the file is empty"),
        ("p.json", b"[1]", "p.json, row 1: found int (expected a JSON object"),
        ("p.json", b"[{]", "p.json, row 1: not JSON: Expecting property name"),
    ],
)
def test_an_unreadable_file_is_named(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    assert error_of(tmp_path / name).startswith(expected)


def test_a_file_without_chosen_lists_its_columns(tmp_path):
    message = error_of(write_lines(tmp_path / "p.jsonl", [{"prompt": "a", "rejected": "b"}]))
    assert message.startswith("p.jsonl: no column `chosen` (columns found: prompt, rejected)")


def test_a_missing_file_names_the_nearest(tmp_path, monkeypatch):
    write_lines(tmp_path / "train_pairs.jsonl", rows_of(1))
    message = error_of(tmp_path / "train_pair.jsonl")
    assert message.endswith(f"no such file or folder. Did you mean {tmp_path / 'train_pairs.jsonl'}?")
    monkeypatch.chdir(tmp_path)
    assert error_of("train_pair.jsonl") == (
        "train_pair.jsonl: no such file or folder. Did you mean train_pairs.jsonl?"
    )
    assert "Nothing in" in error_of(tmp_path / "xyz.parquet")
    assert f"The folder {tmp_path / 'no'} does not exist" in error_of(tmp_path / "no" / "p.jsonl")


def test_one_file_has_the_split_train_only(tmp_path):
    path = write_lines(tmp_path / "p.jsonl", rows_of(2))
    message = error_of(path, ConfigurationError, "eval", dataset_test_split="test")
    assert message.startswith("p.jsonl: found no split test; one file has the split train only.")
    assert "`eval_dataset_name`" in message
    assert load(path, "eval", dataset_test_split="train").split == "train"


def test_evaluation_sources(tmp_path):
    train = write_lines(tmp_path / "train.jsonl", rows_of(2))
    held_out = write_lines(tmp_path / "held_out.jsonl", rows_of(3))
    assert load_sources(DataArguments(dataset_name=train), "eval") == []
    for split in (None, "test"):
        source = load(train, "eval", eval_dataset_name=held_out, dataset_test_split=split)
        assert (source.name, source.split, len(source.dataset)) == ("held_out.jsonl", split or "train", 3)
    with pytest.raises(ConfigurationError, match="no training data"):
        load_sources(DataArguments(), "train")


def test_a_saved_folder(tmp_path):
    DatasetDict({"train": Dataset.from_list(rows_of(3)), "test": Dataset.from_list(rows_of(2, "t"))}).save_to_disk(
        tmp_path / "saved"
    )
    assert plain(load(tmp_path / "saved").dataset) == rows_of(3)
    source = load(tmp_path / "saved", "eval", dataset_test_split="test")
    assert (source.name, source.split, plain(source.dataset)) == ("saved", "test", rows_of(2, "t"))
    assert source.dataset["source_row"][:] == [1, 2]
    message = error_of(tmp_path / "saved", ConfigurationError, "eval", dataset_test_split="validation")
    assert message.startswith("saved: found no split validation; expected one of train, test.")
    Dataset.from_list(rows_of(3)).save_to_disk(tmp_path / "single")
    assert plain(load(tmp_path / "single").dataset) == rows_of(3)


def test_a_folder_of_files(tmp_path):
    folder = tmp_path / "pairs"
    (folder / "data").mkdir(parents=True)
    write_lines(folder / "data" / "train-0.jsonl", rows_of(2))
    write_lines(folder / "data" / "train-1.jsonl.gz", rows_of(3, "second "))
    write(folder / "test.parquet", rows_of(1, "t"))
    (folder / "README.md").write_text("a card")
    source = load(folder)
    assert plain(source.dataset) == rows_of(2) + rows_of(3, "second ")
    assert source.dataset["source_row"][:] == [1, 2, 3, 4, 5]
    assert plain(load(folder, "eval", dataset_test_split="test").dataset) == rows_of(1, "t")
    message = error_of(tmp_path, ConfigurationError, "eval", eval_dataset_name=str(folder))
    assert message.startswith("pairs: has several splits; expected one of train, test.")
    (tmp_path / "empty").mkdir()
    assert error_of(tmp_path / "empty").startswith("empty: the folder holds no data (expected .jsonl,")


def test_a_name_that_the_hub_does_not_have():
    message = error_of("nobody/no-such-pairs")
    assert message.startswith("nobody/no-such-pairs: not a local file or folder, and not loaded from the Hub: ")
    assert "HF_HUB_OFFLINE" in message


def test_a_hub_dataset(monkeypatch):
    asked = []

    def load_dataset(*values, **named):
        asked.append((values, named))
        if named["split"] not in (None, "train"):
            raise ValueError(f"Unknown split \"{named['split']}\". Should be one of ['train'].")
        loaded = Dataset.from_list(rows_of(3))
        return loaded if named["split"] else DatasetDict({"train": loaded})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = load("org/pairs", dataset_config="easy", dataset_revision="v1")
    assert asked == [(("org/pairs", "easy"), {"split": "train", "revision": "v1"})]
    assert (source.name, source.split, plain(source.dataset)) == ("org/pairs", "train", rows_of(3))
    assert source.dataset["source_row"][:] == [1, 2, 3]
    message = error_of("org/pairs", ConfigurationError, "eval", dataset_test_split="dev")
    assert message == "org/pairs: Unknown split \"dev\". Should be one of ['train']."
    asked.clear()
    entry = {"name": "org/pairs", "config": "easy", "revision": "v1", "data_dir": "preference", "amount": 2}
    (source,) = load_sources(DataArguments(datasets=[entry]), "train")
    assert asked == [(("org/pairs", "easy"), {"split": "train", "revision": "v1", "data_dir": "preference"})]
    assert len(source.dataset) == 2
    # Configuration and revision belong to `dataset_name`, not to the second source.
    other = load("org/pairs", "eval", dataset_revision="v1", eval_dataset_name="org/other")
    assert asked[-1] == (("org/other", None), {"split": None, "revision": None})
    assert (other.name, other.split) == ("org/other", "train")


def numbers(size, amount):
    return take_amount(Dataset.from_dict({"n": range(size)}), amount, "pairs")["n"][:]


def drawn(size, count):
    return np.random.RandomState(42).choice(size, size=count, replace=False).tolist()


@pytest.mark.parametrize(
    ("amount", "copies", "rest"),
    [("1.0", 1, 0), ("0.5", 0, 5), ("2.3", 2, 3), ("3", 0, 3), ("10", 1, 0), ("25", 2, 5), ("0.99", 0, 9)],
)
def test_amounts_are_whole_copies_and_a_seeded_draw(amount, copies, rest):
    assert numbers(10, amount) == list(range(10)) * copies + drawn(10, rest)


def test_the_seeded_draw_is_this_one():
    assert numbers(10, "0.5") == [8, 1, 5, 0, 7]


def test_an_amount_of_no_rows_is_refused():
    with pytest.raises(DataError, match=r"^pairs: the amount 0\.05 of 10 rows is 0 rows"):
        numbers(10, "0.05")


def test_a_small_count_of_a_large_set_warns(caplog):
    with caplog.at_level(logging.WARNING):
        assert len(numbers(100, "1")) == 1
        assert len(numbers(101, "11")) == 11
        assert len(numbers(101, "1.0")) == 101
    assert caplog.messages == []
    with caplog.at_level(logging.WARNING):
        assert len(numbers(101, "1")) == 1
    assert caplog.messages == ["pairs: takes 1 of 101 rows; did you mean the fraction 1.0?"]


def test_mixed_sources_keep_their_rows_and_names(tmp_path):
    (tmp_path / "b").mkdir()
    first = write_lines(tmp_path / "p.jsonl", rows_of(4))
    second = write_lines(tmp_path / "b" / "p.jsonl", rows_of(3, "second "))
    mixer = [first, "0.5", second, "2.0", first, "6"]
    arguments = DataArguments(dataset_mixer_list=mixer, dataset_mixer_eval_list=[first, "2"],
                              dataset_mixer_eval_list_splits=["train"])  # fmt: skip
    sources = load_sources(arguments, "train")
    assert [source.name for source in sources] == ["p.jsonl", "p.jsonl (2)", "p.jsonl (3)"]
    picked = [[0, 1, 2, 3][n] + 1 for n in drawn(4, 2)]
    assert [source.dataset["source_row"][:] for source in sources] == [picked, [1, 2, 3] * 2, [1, 2, 3, 4, *picked]]
    assert sources[0].dataset["prompt"][0] == rows_of(4)[picked[0] - 1]["prompt"]
    (evaluation,) = load_sources(arguments, "eval")
    assert evaluation.dataset["source_row"][:] == picked


def test_an_empty_set_is_refused(tmp_path, monkeypatch):
    empty = Dataset.from_list(rows_of(1)).select([])
    parquet.write_table(empty.with_format("arrow")[:], tmp_path / "none.parquet")
    assert error_of(tmp_path / "none.parquet").startswith(
        "none.parquet: the file is empty (expected preference pairs)"
    )
    empty.save_to_disk(tmp_path / "none")
    assert error_of(tmp_path / "none").startswith("none: not readable as a saved dataset, or saved empty: ")
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: empty)
    assert error_of("org/none").startswith("org/none: the split train is empty (expected preference pairs)")


def test_an_arrow_file_of_the_other_format(tmp_path):
    table = Dataset.from_list(rows_of(3)).with_format("arrow")[:]
    with pyarrow.ipc.new_file(tmp_path / "p.arrow", table.schema) as writer:
        writer.write_table(table)
    assert plain(load(tmp_path / "p.arrow").dataset) == rows_of(3)


def test_a_csv_file_of_text_and_numbers(tmp_path):
    header = "prompt,chosen,rejected,margin,tie,tools"
    first = '"a, ""b""","[1, 2]","x\ny",0.5,false,"[{""name"": ""f""}]"'
    (tmp_path / "p.csv").write_text(f"{header}\n{first}\n,c,d,1,,\n", encoding="utf-8-sig")
    first, second = read_all(load(tmp_path / "p.csv"))
    assert (first.prompt, first.completions, first.margin) == ('a, "b"', ["[1, 2]", "x\ny"], 0.5)
    assert (first.tie, first.tools) == (False, [{"name": "f"}])
    assert (second.prompt, second.completions, second.margin) == ("", ["c", "d"], 1.0)


def test_a_list_of_objects_is_read_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_reward.data.lines._CHUNK", 37)
    assert plain(load(write(tmp_path / "p.json", rows_of(9))).dataset) == rows_of(9)
    (tmp_path / "q.json").write_text(json.dumps(rows_of(3))[:-20])
    assert error_of(tmp_path / "q.json").startswith("q.json, row 3: not JSON: ")
    (tmp_path / "r.json").write_text('[{"chosen": "a"} {"chosen": "b"}]')
    assert error_of(tmp_path / "r.json").startswith("r.json, row 1: not JSON: Expecting ',' or ']'")


def test_types_that_only_later_rows_show_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_reward.data.arrow_cache._BATCH", 2)
    rows = [row | {"n": None, "m": 1, "x": [], "y": 1, "z": 0.5} for row in rows_of(5)]
    rows[2]["n"], rows[3]["m"], rows[3]["x"] = "text", 0.5, [1]
    rows[4]["y"], rows[4]["z"] = {"a": None}, 2**60 + 1
    dataset = load(write_lines(tmp_path / "p.jsonl", rows)).dataset
    assert plain(dataset) == rows
    assert (dataset.features["n"], dataset.features["m"]) == (Value("string"), Value("float64"))


@pytest.mark.parametrize("name", ["p.jsonl", "p.json", "p.csv", "p.parquet", "p.arrow"])
def test_a_stream_has_the_rows_of_the_dataset(tmp_path, name):
    path = write(tmp_path / name, rows_of(5))
    stream = load(path, streaming=True)
    assert isinstance(stream.dataset, IterableDataset)
    assert list(stream.dataset) == list(load(path).dataset)
    assert read_all(stream) == read_all(load(path))
    held_out = load(path, "eval", eval_dataset_name=path, streaming=True)
    assert isinstance(held_out.dataset, IterableDataset)


def test_streams_of_a_saved_folder_and_of_the_hub(tmp_path, monkeypatch):
    Dataset.from_list(rows_of(3)).save_to_disk(tmp_path / "saved")
    assert [row["source_row"] for row in load(tmp_path / "saved", streaming=True).dataset] == [1, 2, 3]
    stream = Dataset.from_list(rows_of(4)).to_iterable_dataset()
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, streaming, **__: stream)
    assert [row["source_row"] for row in load("org/pairs", streaming=True).dataset] == [1, 2, 3, 4]


def test_an_amount_of_a_stream(tmp_path):
    path = write_lines(tmp_path / "p.jsonl", rows_of(5))
    (source,) = load_sources(DataArguments(dataset_mixer_list=[path, "2"], streaming=True), "train")
    assert [row["source_row"] for row in source.dataset] == [1, 2]
    with pytest.raises(ConfigurationError, match=r"^p\.jsonl: found the amount 0\.5 with `streaming`"):
        load_sources(DataArguments(dataset_mixer_list=[path, "0.5"], streaming=True), "train")
    stream = Dataset.from_list(rows_of(2)).to_iterable_dataset()
    assert take_from_stream(stream, "1.0", "p") is stream


def test_a_glob_takes_the_files_it_matches_in_order(tmp_path):
    for name, mark in (("b.jsonl", "b"), ("a.csv", "a"), ("note.txt", "")):
        write(tmp_path / name, rows_of(2, mark)) if mark else (tmp_path / name).write_text("x")
    source = load(tmp_path / "*")
    assert plain(source.dataset) == rows_of(2, "a") + rows_of(2, "b")
    assert error_of(tmp_path / "*.parquet").startswith("*.parquet: matches no data file (expected .jsonl,")


@pytest.mark.parametrize("streaming", [False, True])
def test_a_bad_row_of_several_files_names_its_file(tmp_path, streaming):
    write_lines(tmp_path / "a.jsonl", rows_of(3))
    bad = [*rows_of(1), {"prompt": rows_of(1)[0]["prompt"], "chosen": None, "rejected": rows_of(1)[0]["rejected"]}]
    write_lines(tmp_path / "b.jsonl", bad)
    source = load(tmp_path, streaming=streaming)
    with pytest.raises(DataError, match=r"^b\.jsonl, row 2: `chosen` is None"):
        read_all(source)


@pytest.mark.parametrize("streaming", [False, True])
def test_bad_rows_and_bad_lines_are_dropped_on_request(tmp_path, streaming):
    good = json.dumps(rows_of(1)[0])
    (tmp_path / "p.jsonl").write_text(f'{{"chosen"\n{good}\n["a"]\n{good.replace("user", "robot")}\n{good}\n')
    source = load(tmp_path / "p.jsonl", on_bad_row="drop", streaming=streaming)
    entries = read_all(source)
    assert [isinstance(entry, Dropped) for entry in entries] == [True, False, True, True, False]
    assert [entry.message[:24] for entry in entries if isinstance(entry, Dropped)] == [
        "p.jsonl, line 1: not JSO",
        "p.jsonl, line 3: found a",
        "p.jsonl, row 4: `prompt[",
    ]
    assert {entry.reason for entry in entries if isinstance(entry, Dropped)} == {"bad_row"}
    (tmp_path / "p.csv").write_text("chosen,rejected\na\nb,c\n")
    assert [row["source_row"] for row in load(tmp_path / "p.csv", on_bad_row="drop").dataset] == [1, 2]


@pytest.mark.parametrize("name", ["json", "csv", "parquet", "text", "imagefolder"])
def test_the_name_of_a_reader_does_not_scan_the_working_folder(tmp_path, monkeypatch, name):
    write(tmp_path / "here.json", rows_of(2))
    monkeypatch.chdir(tmp_path)
    message = error_of(name, ConfigurationError)
    assert message.startswith(f"{name}: found the name of a reader of the datasets library, not of data; expected the")
    (tmp_path / name).mkdir()
    write(tmp_path / name / "p.json", rows_of(2))
    assert plain(load(name).dataset) == rows_of(2)


def test_a_list_of_sources(tmp_path):
    first = write_lines(tmp_path / "p.jsonl", rows_of(4))
    (tmp_path / "q.csv").write_text("better,worse,id\nYes,No,1\n")
    arguments = DataArguments(
        datasets=[
            {"name": first, "amount": 0.5},
            {"path": str(tmp_path / "q.csv"), "weight": 2, "column_map": {"better": "chosen", "worse": "rejected"}},
            first,
        ]
    )
    half, csv_source, whole = load_sources(arguments, "train")
    assert (len(half.dataset), half.name, whole.name) == (2, "p.jsonl", "p.jsonl (2)")
    (row,) = read_all(csv_source)
    assert (row.completions, row.weight) == (["Yes", "No"], 2.0)
    assert load_eval_sets(arguments) == {}


def test_the_test_split_of_a_source_in_a_list(tmp_path):
    write_lines(tmp_path / "train.jsonl", rows_of(4))
    write_lines(tmp_path / "test.jsonl", rows_of(2, "t"))
    arguments = DataArguments(datasets=[{"name": str(tmp_path), "amount": 2, "test_split": "test"}])
    assert len(load_sources(arguments, "train")[0].dataset) == 2
    sets = load_eval_sets(arguments)
    assert list(sets) == ["eval"]
    assert plain(sets["eval"][0].dataset) == rows_of(2, "t")


def test_named_evaluation_sets(tmp_path):
    one, two = (write_lines(tmp_path / f"{name}.jsonl", rows_of(2, name)) for name in "ab")
    arguments = DataArguments(dataset_name=one, eval_datasets={"x": two, "y": [{"name": one, "split": "test"}, two]})
    sets = load_eval_sets(arguments)
    assert {name: [source.name for source in sources] for name, sources in sets.items()} == {
        "x": ["b.jsonl"],
        "y": ["a.jsonl", "b.jsonl"],
    }
    assert [source.eval_name for source in load_sources(arguments, "eval")] == ["x", "y", "y"]


@pytest.mark.parametrize("streaming", [False, True])
def test_answers_of_helpsteer2_are_put_together(tmp_path, streaming):
    rows = [
        {"prompt": "p", "response": "a", "helpfulness": 1, "verbosity": 4},
        {"prompt": "p", "response": "b", "helpfulness": 3, "verbosity": 0},
        {"prompt": "q", "response": "c", "helpfulness": 2, "verbosity": 2},
        {"prompt": "q", "response": "d", "helpfulness": 2, "verbosity": 1},
        {"prompt": "alone", "response": "e", "helpfulness": 2, "verbosity": 1},
    ]
    path = write_lines(tmp_path / "p.jsonl", rows)
    source = load(path, on_bad_row="drop", streaming=streaming)
    assert source.reader.format == "helpsteer2"
    pair, equal, alone = read_all(source)
    assert ([side[0]["content"] for side in pair.completions], pair.scores) == (["b", "a"], [3.0, 1.0])
    assert (equal.reason, alone.reason) == ("equal_scores", "bad_row")
    assert alone.message.startswith("p.jsonl, row 5: `completions` is a list")
    pair, other, _ = read_all(load(path, on_bad_row="drop", score_column="verbosity", streaming=streaming))
    assert (pair.scores, other.scores) == ([4.0, 0.0], [2.0, 1.0])


def test_whole_prompts_are_held_out_by_a_seeded_draw():
    keys = np.repeat(np.arange(100), np.arange(100) % 4 + 1)
    held_out = split_by_prompt(keys, 0.2, seed=1)
    assert set(keys[held_out]) & set(keys[~held_out]) == set()
    assert 50 <= held_out.sum() <= 53  # 20 % of 250 rows, and the rest of the last prompt
    assert np.array_equal(held_out, split_by_prompt(keys, 0.2, seed=1))
    assert not np.array_equal(held_out, split_by_prompt(keys, 0.2, seed=2))
    assert split_by_prompt(keys, 1).sum() in (1, 2, 3, 4)
    # The draw speaks of prompts, not of places: the same rows in another order give the same prompts.
    order = np.random.default_rng(0).permutation(len(keys))
    assert np.array_equal(split_by_prompt(keys[order], 0.2, seed=1), held_out[order])
    with pytest.raises(
        DataError, match=r"^`eval_split_size` is 0\.5, which leaves no training row of 3 with 1 prompt"
    ):
        split_by_prompt(np.array([7, 7, 7]), 0.5)
