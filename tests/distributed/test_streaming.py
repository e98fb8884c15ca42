"""Streams on two real processes (gloo, torchrun): no row twice, and everything as on one process."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification

from hf_reward.quickstart.model import byte_tokenizer
from tests.conftest import PAIRS, llama_config
from tests.distributed import stream_worker


pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("stream")
    byte_tokenizer().save_pretrained(folder / "model")
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(llama_config(num_labels=1)).save_pretrained(folder / "model")
    # Groups of two and of three completions, with weights.
    rows = [
        {"prompt": f"{prompt} ", "completions": [*sides, "Oh.", "Well."][: 2 + number % 2], "weight": 1.0 + number}
        for number, (prompt, *sides) in enumerate(PAIRS)
    ]
    Dataset.from_list(rows).save_to_disk(folder / "data")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
            *(str(Path(stream_worker.__file__)), str(folder)),
        ],
        capture_output=True,
        text=True,
        timeout=170,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    two = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    return {"one": stream_worker.train(folder, batch_size=4), "two": two}


def test_every_pass_over_a_stream_sees_each_row_once(runs: dict[str, Any]) -> None:
    # Seven rows in batches of four: a pass is two steps, and the second fills up with a row of weight 0.
    steps = [first + second for first, second in zip(*(rank["seen"] for rank in runs["two"]), strict=True)]
    assert [len(step) for step in steps] == [4, 3] * 3
    assert all(len(set(steps[place] + steps[place + 1])) == 7 for place in (0, 2, 4))

    def texts(step: list[str]) -> list[str]:
        return [text.replace("<pad>", "") for text in step]

    assert list(map(texts, steps)) == list(map(texts, runs["one"]["seen"]))


def test_training_on_a_stream_equals_one_process(runs: dict[str, Any]) -> None:
    one, two = ([entry for entry in run["history"] if "loss" in entry] for run in (runs["one"], runs["two"][0]))
    assert len(one) == len(two) == 6
    for here, there in zip(one, two, strict=True):
        for name in ("loss", "reward_margin", "accuracy", "chosen_reward", "grad_norm"):
            assert there[name] == pytest.approx(here[name], abs=2e-5, rel=1e-4), name
        assert (there["num_pairs"], there["num_tokens"]) == (here["num_pairs"], here["num_tokens"])
    # Four groups of one pair and three of three pairs, three times.
    assert two[-1]["num_pairs"] == 39
    for name, weight in runs["one"]["weights"].items():
        there = torch.tensor(runs["two"][0]["weights"][name])
        torch.testing.assert_close(there, torch.tensor(weight), rtol=0, atol=1e-4)


def test_evaluation_of_a_stream_is_exact(runs: dict[str, Any]) -> None:
    one, two = ([e for e in run["history"] if "eval_loss" in e] for run in (runs["one"], runs["two"][0]))
    assert len(one) == len(two) == 2
    for here, there in zip(one, two, strict=True):
        assert there["eval_pairs"] == here["eval_pairs"] == 13
        for name in ("accuracy", "loss", "reward_margin", "reward_std", "reward_margin_p5", "length_correlation"):
            assert there[f"eval_{name}"] == pytest.approx(here[f"eval_{name}"], abs=1e-4), name
    rewards = [torch.tensor(run["predictions"][-1]) for run in (runs["one"], *runs["two"])]
    assert [tuple(values.shape) for values in rewards] == [(7, 3)] * 3
    exist = torch.tensor([[True, True, number % 2 == 1] for number in range(7)])
    torch.testing.assert_close(rewards[1][exist], rewards[0][exist], rtol=0, atol=1e-4)
    assert torch.equal(rewards[1][exist], rewards[2][exist])
