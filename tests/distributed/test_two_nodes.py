"""
The command as it is typed on each of two machines (both are this one, on the loopback): it starts its process, finds
the other, trains, evaluates seven rows exactly, saves, and equals one process.
"""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_reward import RewardScorer
from tests.distributed.helpers import finish, free_port, options, prepare, results, run, start


pytestmark = [pytest.mark.distributed, pytest.mark.timeout(600)]

COMMAND = (sys.executable, "-m", "hf_reward.cli.train")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("two")
    data = prepare(folder).settings()
    one = options(output_dir=folder / "one", per_device_train_batch_size=4, per_device_eval_batch_size=4, **data)
    output = run([*COMMAND, *one])
    outputs = {1: output}
    # The number of processes stands in the recipe, the machines on the command line.
    (folder / "recipe.yaml").write_text("accelerate_config: cpu\nnum_processes: 2\n")
    two = [str(folder / "recipe.yaml"), *options(output_dir=folder / "two", **data), "--num_machines", "2"]
    two += ["--main_process_ip", "127.0.0.1", "--main_process_port", str(free_port())]
    nodes = [start([*COMMAND, *two, "--machine_rank", str(rank)]) for rank in range(2)]
    ends = [finish(node) for node in nodes]
    assert [code for code, _ in ends] == [0, 0], ends
    outputs[2] = "".join(output for _, output in ends)
    return {n: results(folder / name) | {"output": outputs[n]} for n, name in ((1, "one"), (2, "two"))}


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
