"""What the tests with several processes share: a model and pairs on the disk, launchers, and what a run wrote."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, LlamaForCausalLM

from hf_reward.quickstart.model import byte_tokenizer
from tests.conftest import PAIRS, llama_config


ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).with_name("worker.py")
CONFIGS = ROOT / "recipes" / "accelerate_configs"
# Seconds that a launch may take, on a loaded machine, and the time-out of the collectives in it.
LIMIT, DDP_TIMEOUT = 300, 120

SETTINGS = {
    "eval_strategy": "epoch",
    "num_train_epochs": 3,
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "seed": 3,
    "use_cpu": "true",
    "gradient_checkpointing": "false",
    "save_strategy": "no",
    "per_device_train_batch_size": 2,
    "per_device_eval_batch_size": 2,
    "ddp_timeout": DDP_TIMEOUT,
}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass
class Material:
    """Seven weighted pairs to train on, seven others to evaluate on, a reward model and a causal one."""

    folder: Path

    def settings(self, base: str = "base") -> dict[str, Any]:
        return {
            "model_name_or_path": self.folder / base,
            "dataset_name": self.folder / "train.jsonl",
            "eval_dataset_name": self.folder / "eval.jsonl",
        }


def prepare(folder: Path) -> Material:
    for name in ("base", "causal"):
        byte_tokenizer().save_pretrained(folder / name)
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(llama_config(num_labels=1)).save_pretrained(folder / "base")
    LlamaForCausalLM(llama_config()).save_pretrained(folder / "causal")
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
    return Material(folder)


def options(**settings: Any) -> list[str]:
    """A command line of `hf_reward-train`, without the recipe."""
    return [text for key, value in (SETTINGS | settings).items() for text in (f"--{key}", str(value))]


def torchrun(processes: int = 2, **settings: Any) -> list[str]:
    more = [text for key, value in settings.items() for text in (f"--{key}", str(value))]
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes)),
        *(more or ("--master_port", str(free_port()))),
    ]


def accelerate(mode: str, processes: int = 2) -> list[str]:
    return [
        *(sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"),
        *("--config_file", str(CONFIGS / f"{mode}.yaml"), "--num_processes", str(processes)),
        *("--main_process_port", str(free_port())),
    ]


def start(command: list[str], **environment: str) -> subprocess.Popen[str]:
    """Start a command in an environment without a launcher's variables."""
    clean = {
        key: value for key, value in os.environ.items() if not key.startswith(("ACCELERATE_", "FSDP_", "HF_REWARD_"))
    }
    for key in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        clean.pop(key, None)
    quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "PYTHONPATH": str(ROOT)}
    quiet["STARTED"] = str(time.time())
    # ninja may lie beside the interpreter.
    path = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=clean | quiet | path | environment,
        cwd=ROOT,
    )


def finish(process: subprocess.Popen[str], limit: int = LIMIT) -> tuple[int, str]:
    """Exit code and output; a command that is not done in time is ended, with all that it started."""
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.terminate()
        output, _ = process.communicate(timeout=60)
        raise AssertionError(f"not done after {limit} s: {output[-3000:]}") from None
    return process.returncode, output


def run(command: list[str], code: int = 0, **environment: str) -> str:
    """Output of a command that must end with this code."""
    returned, output = finish(start(command, **environment))
    assert returned == code, output[-6000:]
    return output


def run_cases(launcher: list[str], cases: list[list[str]], folder: Path, *flags: str, **environment: str) -> str:
    """Run several command lines one after the other in one launch of the worker."""
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "cases.json").write_text(json.dumps(cases))
    return run([*launcher, str(WORKER), str(folder / "cases.json"), *flags], **environment)


def results(folder: Path) -> dict[str, Any]:
    """What a run wrote: log, metrics, weights, and what the worker saw (by rank)."""
    weights = [folder / name for name in ("model.safetensors", "adapter_model.safetensors")]
    return {
        "history": json.loads((folder / "trainer_state.json").read_text())["log_history"],
        "eval": json.loads((folder / "eval_results.json").read_text()),
        "train": json.loads((folder / "train_results.json").read_text()),
        "weights": {name: w for path in weights if path.is_file() for name, w in load_file(path).items()},
        "seen": [json.loads(path.read_text()) for path in sorted(folder.glob("seen-*.json"))],
    }


def why_no_deepspeed() -> str | None:
    missing = [tool for tool in ("g++", "ninja") if shutil.which(tool) is None]
    if missing:
        return f"DeepSpeed builds its communication on a CPU with {' and '.join(missing)}, which is not here"
    return None


needs_deepspeed = pytest.mark.skipif(why_no_deepspeed() is not None, reason=why_no_deepspeed() or "")
