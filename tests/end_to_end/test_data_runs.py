import json

import pytest

from hf_reward.cli.train import run_training
from hf_reward.training import run as training_run


def pair(prompt):
    return {"prompt": f"{prompt} ", "chosen": "good", "rejected": "bad"}


@pytest.fixture
def settings(tmp_path, causal_folder):
    def write(name, prompts):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(pair(prompt)) + "\n" for prompt in prompts), encoding="utf-8")
        return str(path)

    return {
        "model_name_or_path": str(causal_folder),
        "dataset_name": write("train", "abcdefgh"),
        "eval_datasets": {name: {"name": write(name, prompts)} for name, prompts in (("one", "xyz"), ("two", "uv"))},
        "dataset_cache_dir": str(tmp_path / "cache"),
        "output_dir": str(tmp_path / "out"),
        "max_steps": 2,
        "logging_steps": 1,
        "per_device_train_batch_size": 2,
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
    }


def test_a_run_is_evaluated_on_every_named_set(settings):
    result = run_training(**settings, eval_strategy="steps", eval_steps=1)
    assert (result.eval_metrics["eval_one_pairs"], result.eval_metrics["eval_two_pairs"]) == (3, 2)
    report = json.loads((training_run.Path(result.output_dir) / "data_report.json").read_text())
    assert [report[key]["kept"] for key in ("train", "eval_one", "eval_two")] == [8, 3, 2]
    card = (training_run.Path(result.output_dir) / "README.md").read_text()
    assert "| eval\\_two | local file `two.jsonl` | 2 | 2 | none |" in card


def test_a_run_for_the_data_alone_loads_no_model(settings, monkeypatch, tmp_path):
    monkeypatch.delattr(training_run, "load_reward_model")
    result = run_training(**settings, cache_dataset_only=True)
    assert (result.data_only, result.data_report["train"]["kept"]) == (True, 8)
    assert not (tmp_path / "out").exists()
    assert len([path for path in (tmp_path / "cache").iterdir() if path.is_dir()]) == 3


def test_a_run_on_a_stream_trains_and_counts_what_was_read(settings, tmp_path):
    rows = [pair("a"), pair("b") | {"rejected": "good"}, pair("c"), pair("d") | {"chosen": ""}, *map(pair, "efgh")]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    result = run_training(**settings, streaming=True)
    assert result.train_metrics["num_pairs"] == 4
    assert result.eval_metrics["eval_one_pairs"] == 3
    # Two steps of two pairs, and the batch that is read ahead.
    counts = {"rows": 8, "kept": 6, "dropped": {"empty": 1, "identical": 1}}
    report = json.loads((training_run.Path(result.output_dir) / "data_report.json").read_text())
    assert report["train"] == counts | {"sources": {"train.jsonl": counts}}
    card = (training_run.Path(result.output_dir) / "README.md").read_text()
    assert "| train | local file `train.jsonl` | 8 | 6 | " in card
