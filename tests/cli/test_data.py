import json
import subprocess
import sys

import pytest

from hf_reward.cli.data import HELP, main


ROWS = [
    {
        "prompt": [{"role": "user", "content": f"Question {number}?"}],
        "chosen": [{"role": "assistant", "content": "A good answer."}],
        "rejected": [{"role": "assistant", "content": "Bad."}],
    }
    for number in range(5)
]


@pytest.fixture
def pairs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hf_reward.data.cache.default_cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setattr("hf_reward.training.data.default_cache_dir", lambda: tmp_path / "cache")
    rows = [*ROWS, ROWS[0], ROWS[1] | {"rejected": ROWS[1]["chosen"]}]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_file_without_a_tokenizer_is_measured_in_bytes(pairs, capsys):
    assert main(["pairs.jsonl", "--output", "report.json"]) == 0
    printed = capsys.readouterr().out
    assert "1 duplicate, 1 identical" in printed
    assert "lengths: bytes, not tokens, and no limit" in printed
    report = json.loads((pairs.parent / "report.json").read_text())
    assert report["train"]["rows"], report["train"]["kept"] == (7, 5)
    assert report["train"]["dropped"] == {"duplicate": 1, "identical": 1}
    # "user: Question 0?", a newline and "assistant: ", then "A good answer." and the closing token.
    assert report["train"]["tokens"]["prompt"]["max"] == len("user: Question 0?\nassistant: ")
    assert report["train"]["tokens"]["chosen"]["max"] == len("A good answer.") + 1
    assert report["train"]["max_length"] is None
    assert report["tokenizer"].startswith("bytes")


def test_a_recipe_needs_no_model_but_its_tokenizer(pairs, causal_folder, capsys):
    recipe = pairs.parent / "recipe.yaml"
    recipe.write_text(
        f"model_name_or_path: {causal_folder}\ndataset_name: pairs.jsonl\noutput_dir: out\nmax_length: 30\n"
        "eval_split_size: 0.4\neval_strategy: epoch\n"
    )
    (causal_folder / "model.safetensors").unlink()
    assert main([str(recipe), "--max_length", "28", "--output=report.json", "--figure", "lengths.png"]) == 0
    report = json.loads((pairs.parent / "report.json").read_text())
    assert [report[split]["kept"] for split in ("train", "eval")] == [3, 2]
    assert (report["train"]["max_length"], report["tokenizer"]) == (28, "tokens of causal")
    assert "tokens of causal" in capsys.readouterr().out
    assert (pairs.parent / "lengths.png").read_bytes().startswith(b"\x89PNG")
    assert not (pairs.parent / "out").exists()


def test_streams_are_read_once_and_counted(pairs, capsys):
    held = pairs.with_name("held.jsonl")
    held.write_text(json.dumps(ROWS[0] | {"rejected": [{"role": "assistant", "content": ""}]}) + "\n" * 2)
    argv = ["pairs.jsonl", "--streaming", "--eval_dataset_name", "held.jsonl", "--eval_overlap", "drop"]
    assert main([*argv, "--output", "report.json"]) == 0
    report = json.loads((pairs.parent / "report.json").read_text())
    assert report["train"]["dropped"] == {"identical": 1}
    assert (report["train"]["rows"], report["train"]["kept"]) == (7, 6)
    assert report["eval"]["sources"] == {"held.jsonl": {"rows": 1, "kept": 0, "dropped": {"empty": 1}}}
    assert "1 identical" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nowhere.jsonl"], "error: nowhere.jsonl: no such file or folder"),
        (["pairs.jsonl", "--max_lenght", "3"], "unknown key `max_lenght`; did you mean `max_length`?"),
        (["pairs.jsonl", "--output"], "error: command line: `--output`: found no value; expected a file"),
        (["pairs.jsonl", "--tokenizer_name_or_path", "nowhere"], "No tokenizer could be loaded from 'nowhere'"),
    ],
)
def test_a_mistake_is_exit_code_2_and_one_message(pairs, capsys, argv, message):
    assert main(argv) == 2
    assert message in capsys.readouterr().err


def test_help_imports_neither_torch_nor_transformers():
    code = (
        "import sys; from hf_reward.cli.data import main; main(['--help']); "
        "print(sorted({'torch', 'transformers', 'datasets', 'trl', 'yaml'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found == HELP + "[]\n"
    assert max(map(len, HELP.splitlines())) <= 120


def test_nothing_given_shows_how(capsys):
    assert main([]) == 2
    assert capsys.readouterr().out == HELP
