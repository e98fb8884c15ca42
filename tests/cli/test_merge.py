"""`hf_reward-merge`, and a run that ends with a merged model."""

import json
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification

from hf_reward import RewardScorer, run_training
from hf_reward.cli.merge import main


TEXTS = ["a text", "another, longer text", "12345"]


@pytest.fixture
def pairs_file(tmp_path: Path, chat_pairs: Dataset) -> Path:
    chat_pairs.to_json(tmp_path / "train.jsonl")
    return tmp_path / "train.jsonl"


def settings(causal_folder: Path, pairs_file: Path, folder: Path) -> dict[str, object]:
    return {
        "model_name_or_path": str(causal_folder),
        "dataset_name": str(pairs_file),
        "eval_dataset_name": str(pairs_file),
        "eval_overlap": "allow",
        "output_dir": str(folder),
        "use_peft": True,
        "lora_r": 4,
        "learning_rate": 2e-2,
        "max_steps": 4,
        "save_strategy": "no",
        "gradient_checkpointing": False,
    }


def test_the_command_writes_a_plain_checkpoint_and_says_the_difference(
    causal_folder: Path, pairs_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    result = run_training(**settings(causal_folder, pairs_file, tmp_path / "adapter"))
    rewards = RewardScorer.from_pretrained(tmp_path / "adapter", device="cpu").score(TEXTS)
    capsys.readouterr()
    assert main([str(tmp_path / "adapter"), "--output_dir", str(tmp_path / "merged")]) == 0
    printed = capsys.readouterr().out
    assert "merged: rewards of 16 generated texts differ by at most " in printed
    assert "(weights in float32)" in printed
    merged = RewardScorer.from_pretrained(tmp_path / "merged", device="cpu")
    assert merged.score(TEXTS) == pytest.approx(rewards, abs=1e-5)
    files = {path.name for path in (tmp_path / "merged").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= files
    assert not {name for name in files if name.startswith("adapter")}
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config["reward_std"] == pytest.approx(result.eval_metrics["eval_reward_std"])
    assert str(tmp_path) not in json.dumps(config)
    # Neither a folder in use, nor a folder without an adapter.
    assert main([str(tmp_path / "adapter"), "--output_dir", str(tmp_path / "merged")]) == 2
    assert main([str(tmp_path / "merged"), "--output_dir", str(tmp_path / "other")]) == 2
    errors = capsys.readouterr().err
    assert "is not empty. Choose another folder." in errors
    assert "holds no adapter" in errors
    assert not (tmp_path / "other").exists()


def test_bfloat16_prints_what_it_costs(causal_folder: Path, pairs_file: Path, tmp_path: Path, capsys) -> None:
    run_training(**settings(causal_folder, pairs_file, tmp_path / "adapter"))
    arguments = [str(tmp_path / "adapter"), "--output_dir", str(tmp_path / "merged"), "--dtype", "bfloat16"]
    assert main([*arguments, "--base_model", str(causal_folder)]) == 0
    assert "(weights in bfloat16)" in capsys.readouterr().out
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged", dtype="auto")
    assert plain.model.embed_tokens.weight.dtype == torch.bfloat16


def test_a_run_can_end_with_the_merged_model(causal_folder: Path, pairs_file: Path, tmp_path: Path, caplog) -> None:
    out = tmp_path / "out"
    with caplog.at_level("INFO", logger="hf_reward"):
        result = run_training(**settings(causal_folder, pairs_file, out), merge_adapter=True)
    assert "adapter merged: rewards of 16 generated texts differ by at most" in caplog.text
    assert not list(out.glob("adapter_*"))
    plain = RewardScorer.from_pretrained(out, device="cpu")
    adapter = RewardScorer.from_pretrained(out / "adapter", base_model=causal_folder, device="cpu")
    assert plain.score(TEXTS) == pytest.approx(adapter.score(TEXTS), abs=1e-5)
    config = json.loads((out / "config.json").read_text())
    assert config["reward_std"] == pytest.approx(result.eval_metrics["eval_reward_std"])
    assert config["problem_type"] == "regression"
    # What was evaluated is the merged model: its loss over all pairs is the one that was written.
    from hf_reward import RewardConfig, RewardTrainer

    trainer = RewardTrainer(
        str(out),
        RewardConfig(output_dir=str(tmp_path / "again"), use_cpu=True),
        eval_dataset=Dataset.from_json(str(pairs_file)),
    )
    assert trainer.evaluate()["eval_loss"] == pytest.approx(result.eval_metrics["eval_loss"], abs=1e-5)
