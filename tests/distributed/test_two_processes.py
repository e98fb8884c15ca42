"""Two real processes (gloo, torchrun) train, evaluate seven rows exactly, save, and equal one process."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_reward import RewardScorer


pytestmark = pytest.mark.distributed

SETTINGS = {
    "eval_strategy": "epoch",
    "num_train_epochs": 3,
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "seed": 3,
    "use_cpu": "true",
    "gradient_checkpointing": "false",
    "save_strategy": "no",
}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def run(processes: int, folder: Path, **settings: Any) -> dict[str, Any]:
    """Run the command, under torchrun if there are several processes, and return what it wrote."""
    options = [text for key, value in (SETTINGS | settings).items() for text in (f"--{key}", str(value))]
    launcher = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes)),
        *("--master_port", str(free_port()), "-m"),
    ]
    command = [*(launcher if processes > 1 else [sys.executable, "-m"]), "hf_reward.cli.train"]
    done = subprocess.run(
        [*command, "--output_dir", str(folder), *options],
        capture_output=True,
        text=True,
        timeout=170,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {
        "history": json.loads((folder / "trainer_state.json").read_text())["log_history"],
        "eval": json.loads((folder / "eval_results.json").read_text()),
        "train": json.loads((folder / "train_results.json").read_text()),
        "weights": load_file(folder / "model.safetensors"),
        "output": done.stdout + done.stderr,
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    from tests.conftest import PAIRS, llama_config

    folder = tmp_path_factory.mktemp("two")
    from hf_reward.quickstart.model import byte_tokenizer

    byte_tokenizer().save_pretrained(folder / "base")
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(llama_config(num_labels=1)).save_pretrained(folder / "base")
    rows = [
        {
            "prompt": [{"role": "user", "content": prompt}],
            "chosen": [{"role": "assistant", "content": chosen}],
            "rejected": [{"role": "assistant", "content": rejected}],
            "weight": 1.0 + number,
        }
        for number, (prompt, chosen, rejected) in enumerate(PAIRS)
    ]
    Dataset.from_list(rows).to_json(folder / "train.jsonl")
    evaluation = [row | {"prompt": [{"role": "user", "content": f"Now {i}?"}]} for i, row in enumerate(rows)]
    Dataset.from_list(evaluation).to_json(folder / "eval.jsonl")
    data = {
        "model_name_or_path": folder / "base",
        "dataset_name": folder / "train.jsonl",
        "eval_dataset_name": folder / "eval.jsonl",
    }
    return {
        1: run(1, folder / "one", per_device_train_batch_size=4, per_device_eval_batch_size=4, **data),
        2: run(2, folder / "two", per_device_train_batch_size=2, per_device_eval_batch_size=2, **data),
    }


def test_the_mode_that_ran_is_said(runs: dict[int, dict[str, Any]]) -> None:
    assert "mode=single world=1 device=cpu dtype=float32" in runs[1]["output"]
    assert "mode=DDP world=2 backend=gloo device=cpu dtype=float32" in runs[2]["output"]
    assert runs[2]["output"].count("mode=DDP") == 1


def test_two_processes_evaluate_seven_rows_exactly(runs: dict[int, dict[str, Any]], tmp_path: Path) -> None:
    for name in ("accuracy", "tie_rate", "loss", "reward_margin", "chosen_reward", "rejected_reward", "reward_std"):
        assert runs[2]["eval"][f"eval_{name}"] == pytest.approx(runs[1]["eval"][f"eval_{name}"], abs=1e-4), name
    for name in ("reward_margin_p5", "reward_margin_p50", "calibration_error", "length_correlation", "longer_wins"):
        assert runs[2]["eval"][f"eval_{name}"] == pytest.approx(runs[1]["eval"][f"eval_{name}"], abs=1e-4), name
    assert runs[2]["eval"]["eval_pairs_chosen_shorter"] == runs[1]["eval"]["eval_pairs_chosen_shorter"] > 0
    assert runs[2]["eval"]["eval_pairs"] == runs[1]["eval"]["eval_pairs"] == 7
    assert runs[2]["eval"]["eval_accuracy"] * 14 == pytest.approx(round(runs[2]["eval"]["eval_accuracy"] * 14))


def test_two_processes_train_like_one(runs: dict[int, dict[str, Any]]) -> None:
    # Seven rows in global batches of four: accelerate repeats a row in the last one, and it must weigh nothing.
    histories = {n: [e for e in run["history"] if "loss" in e] for n, run in runs.items()}
    assert len(histories[1]) == len(histories[2]) == 6
    for one, two in zip(histories[1], histories[2], strict=True):
        for name in ("loss", "reward_margin", "accuracy", "chosen_reward", "grad_norm"):
            assert two[name] == pytest.approx(one[name], abs=2e-5, rel=1e-4), name
        assert two["num_pairs"] == one["num_pairs"]
        assert two["num_tokens"] == one["num_tokens"]
    assert runs[2]["train"]["num_pairs"] == 21
    assert runs[1]["weights"].keys() == runs[2]["weights"].keys()
    for name, weight in runs[1]["weights"].items():
        torch.testing.assert_close(runs[2]["weights"][name], weight, rtol=0, atol=1e-4)


def test_what_two_processes_save_is_a_plain_checkpoint(
    runs: dict[int, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = next(tmp_path_factory.getbasetemp().glob("two*")) / "two"
    assert "score.weight" in runs[2]["weights"]
    conversation = [{"role": "user", "content": "Say hello."}, {"role": "assistant", "content": "Hello!"}]
    ids = AutoTokenizer.from_pretrained(folder).apply_chat_template(
        conversation, return_dict=True, return_tensors="pt"
    )
    with torch.no_grad():
        plain = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()(**ids).logits
    assert RewardScorer.from_pretrained(folder).score(conversation) == pytest.approx(plain[0].tolist(), abs=1e-5)
