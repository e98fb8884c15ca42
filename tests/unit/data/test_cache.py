import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from datasets import Dataset

from hf_reward.config import DataArguments
from hf_reward.data import preparation
from hf_reward.data.cache import build_once, cache_key, default_cache_dir
from hf_reward.data.filters import Filters
from hf_reward.data.lengths import LengthLimits
from hf_reward.data.loading import load_sources
from hf_reward.data.preparation import prepare_split
from hf_reward.data.reading import ReadingOptions, detect_reader
from hf_reward.data.tokenization import RowRules
from hf_reward.modeling.tokenizer import prepare_tokenizer


ROWS = [{"prompt": "q ", "chosen": f"good {number}", "rejected": "bad"} for number in range(4)]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def prepare(path, tokenizer, folder, rules=None):
    sources = load_sources(DataArguments(dataset_name=str(path)), "train")
    return prepare_split(sources, tokenizer, "train", rules or RowRules(), Filters(), cache_dir=folder)


def entries(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


@pytest.fixture
def tokenised(monkeypatch):
    """The names of the sources that were tokenised."""
    names = []
    tokenize = preparation.tokenize_dataset

    def counted(dataset, reader, tokenizer, name, *rest):
        names.append(name)
        return tokenize(dataset, reader, tokenizer, name, *rest)

    monkeypatch.setattr(preparation, "tokenize_dataset", counted)
    return names


def test_the_second_time_nothing_is_tokenised(tmp_path, tokenizer, tokenised):
    path = write(tmp_path / "pairs.jsonl", ROWS)
    first = prepare(path, tokenizer, tmp_path / "cache").dataset()
    second = prepare(path, tokenizer, tmp_path / "cache").dataset()
    assert tokenised == ["pairs.jsonl"]
    assert second[:] == first[:]
    assert len(entries(tmp_path / "cache")) == 1


def test_an_edited_file_of_the_same_length_and_date_is_noticed(tmp_path, tokenizer):
    path = write(tmp_path / "pairs.jsonl", ROWS)
    before = os.stat(path)
    assert (
        tokenizer.decode(prepare(path, tokenizer, tmp_path / "cache").dataset()[0]["chosen_input_ids"])
        == "q good 0<eos>"
    )
    write(path, [row | {"chosen": row["chosen"].replace("good", "best")} for row in ROWS])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert os.stat(path).st_size == before.st_size
    assert (
        tokenizer.decode(prepare(path, tokenizer, tmp_path / "cache").dataset()[0]["chosen_input_ids"])
        == "q best 0<eos>"
    )


def test_every_setting_that_matters_is_in_the_key(tokenizer):
    dataset = Dataset.from_list(ROWS)
    reader = detect_reader(dataset, "pairs")
    keys = [cache_key(dataset, reader, tokenizer, RowRules())]
    assert cache_key(Dataset.from_list(ROWS), detect_reader(dataset, "other"), tokenizer, RowRules()) == keys[0]
    rules = [
        RowRules(LengthLimits(100)),
        RowRules(LengthLimits(None, 100)),
        RowRules(LengthLimits(None, None, "truncate_prompt")),
        RowRules(escape_special_tokens=True),
        RowRules(drop_identical=False),
        RowRules(drop_empty=False),
        RowRules(as_groups=True),
    ]
    keys += [cache_key(dataset, reader, tokenizer, rule) for rule in rules]
    keys.append(cache_key(dataset.select([1, 0]), reader, tokenizer, RowRules()))
    options = ReadingOptions(on_bad_row="drop")
    keys.append(cache_key(dataset, detect_reader(dataset, "pairs", options), tokenizer, RowRules()))
    tokenizer.chat_template += " "
    keys.append(cache_key(dataset, reader, tokenizer, RowRules()))
    tokenizer.add_tokens(["good"])
    keys.append(cache_key(dataset, reader, tokenizer, RowRules()))
    tokenizer.eos_token = "good"
    keys.append(cache_key(dataset, reader, tokenizer, RowRules()))
    assert len(set(keys)) == len(keys) == 13


def test_the_key_does_not_depend_on_earlier_calls_or_on_the_process(tmp_path, tokenizer):
    dataset = Dataset.from_list(ROWS)
    key = cache_key(dataset, detect_reader(dataset, "pairs"), tokenizer, RowRules())
    tokenizer("text", truncation=True, max_length=2, padding="max_length")
    assert cache_key(dataset, detect_reader(dataset, "pairs"), tokenizer, RowRules()) == key
    program = f"""
        from datasets import Dataset
        from hf_reward.data.cache import cache_key
        from hf_reward.data.reading import detect_reader
        from hf_reward.data.tokenization import RowRules
        from hf_reward.quickstart.model import byte_tokenizer
        dataset = Dataset.from_list({ROWS!r})
        print(cache_key(dataset, detect_reader(dataset, "pairs"), byte_tokenizer(), RowRules()))
    """
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True, env=environment
    )
    assert found.stdout.split()[-1] == key


def test_a_template_that_writes_the_date_is_tokenised_anew_every_day(tokenizer, monkeypatch):
    dataset = Dataset.from_list(ROWS)
    reader = detect_reader(dataset, "pairs")
    tokenizer.chat_template = "{{ strftime_now('%d') }}" + tokenizer.chat_template

    class Later:
        @staticmethod
        def now(tz):
            from datetime import datetime, timedelta

            return datetime.now(tz) + timedelta(days=1)

    today = cache_key(dataset, reader, tokenizer, RowRules())
    monkeypatch.setattr("hf_reward.data.cache.datetime", Later)
    assert cache_key(dataset, reader, tokenizer, RowRules()) != today


PROGRAM = """
    import os, sys, time
    from pathlib import Path
    from datasets import Dataset
    from hf_reward.data.cache import build_once

    folder = Path(sys.argv[1])

    def rows():
        for number in range(4000):
            if number == 2500:
                (folder / "half").touch()
                if sys.argv[2] == "hang":
                    time.sleep(60)
            yield {"number": number}

    def build(file):
        with open(folder / "built", "a") as log:
            log.write("x")
        source = Dataset.from_dict({"number": range(4000)})
        iterator = rows()
        return source.map(
            lambda batch: {"number": [next(iterator)["number"] for _ in batch["number"]]},
            batched=True, cache_file_name=str(file), load_from_cache_file=False,
        )

    print(sum(build_once(folder / "cache", "key", "pairs", build)["number"]))
"""


def start(folder, what):
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(folder), what]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def wait_for(path, seconds=60):
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.02)


def test_a_killed_process_leaves_nothing_that_counts_as_stored(tmp_path):
    killed = start(tmp_path, "hang")
    wait_for(tmp_path / "half")
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    left = [path.name for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    assert [name.startswith(".key.") and name.endswith(".partial") for name in left] == [True]
    output, _ = start(tmp_path, "go").communicate()
    assert int(output.split()[-1]) == sum(range(4000))
    assert (tmp_path / "built").read_text() == "xx"
    assert entries(tmp_path / "cache") == ["key"]


def test_several_processes_build_it_once(tmp_path):
    processes = [start(tmp_path, "go") for _ in range(2)]
    outputs = [process.communicate()[0] for process in processes]
    assert [int(output.split()[-1]) for output in outputs] == [sum(range(4000))] * 2
    assert (tmp_path / "built").read_text() == "x"


def test_a_build_that_fails_leaves_nothing(tmp_path):
    def fail(file: Path):
        file.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        build_once(tmp_path, "key", "pairs", fail)
    assert entries(tmp_path) == []


def test_without_a_folder_nothing_is_stored(tmp_path, tokenizer, tokenised):
    path = write(tmp_path / "pairs.jsonl", ROWS)
    for _ in range(2):
        prepare(path, tokenizer, None)
    assert tokenised == ["pairs.jsonl"] * 2
    assert default_cache_dir().name == "hf_reward"


def test_rows_of_several_processes_come_back_in_order(tmp_path, tokenizer):
    prepare_tokenizer(tokenizer)
    path = write(tmp_path / "pairs.jsonl", ROWS)
    sources = load_sources(DataArguments(dataset_name=str(path)), "train")
    rows = [
        prepare_split(sources, tokenizer, "train", RowRules(), Filters(), 2, tmp_path / "cache").dataset()
        for _ in range(2)
    ]
    texts = [tokenizer.decode(ids) for ids in rows[1]["chosen_input_ids"]]
    assert texts == [f"q good {number}<eos>" for number in range(4)]
    assert rows[0][:] == rows[1][:]
