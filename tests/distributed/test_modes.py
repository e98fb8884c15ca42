"""
Every mode, really run by two processes on the CPU: it is the one asked for, trains and evaluates like one process,
keeps the score head in float32, saves a plain checkpoint, and goes on from its own checkpoints.

One launch runs several command lines, one after the other; see `worker.py`.
"""

import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests.distributed.helpers import CONFIGS, Material, accelerate, options, prepare, results, run_cases, torchrun


pytestmark = [pytest.mark.distributed, pytest.mark.timeout(600)]

ZERO3 = {
    "zero_optimization": {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True},
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "train_batch_size": "auto",
    "gradient_clipping": "auto",
}
LORA = {"use_peft": "true", "lora_dropout": 0, "lora_target_modules": "all-linear"}
# Command lines of one launch: the keys beside those of every run. "resumed" goes on where "full" was after 3 steps.
CASES: dict[str, dict[str, Any]] = {
    "full": {"batch_layout": "shared_prompt", "save_strategy": "steps", "save_steps": 3},
    "resumed": {"batch_layout": "shared_prompt"},
    "lora_bf16": {"batch_layout": "padded", **LORA, "bf16": "true"},
}
MORE_CASES: dict[str, dict[str, Any]] = {
    "lora": {"batch_layout": "padded", **LORA},
    "lora_shared": {"batch_layout": "shared_prompt", **LORA},
    "full_padded": {"batch_layout": "padded"},
    "full_bf16": {"batch_layout": "shared_prompt", "bf16": "true"},
}


@dataclass(frozen=True)
class Mode:
    """How a mode is launched, and what must be seen of it."""

    launcher: Callable[[Path], list[str]]
    line: str
    split: str = "Tensor"
    flags: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    cases: tuple[str, ...] = tuple(CASES)


def changed(mode: str, old: str, new: str) -> Callable[[Path], list[str]]:
    """Accelerate's launcher with a shipped configuration in which something is written differently."""

    def launcher(folder: Path) -> list[str]:
        text = (CONFIGS / f"{mode}.yaml").read_text()
        assert old in text
        (folder / "changed.yaml").write_text(text.replace(old, new))
        command = accelerate(mode)
        command[command.index("--config_file") + 1] = str(folder / "changed.yaml")
        return command

    return launcher


DEEPSPEED = ("--no_builds",)
FSDP = ("--pretend_gpus",)
MODES = {
    "one": Mode(lambda _: [sys.executable], "mode=single world=1"),
    "ddp": Mode(lambda _: torchrun(), "mode=DDP world=2 backend=gloo"),
    "zero2": Mode(lambda _: accelerate("zero2"), "mode=DeepSpeed-ZeRO2 world=2 backend=gloo", flags=DEEPSPEED),
    # With DeepSpeed's own file under torchrun, where its communication must start before the model is made.
    "zero3": Mode(
        lambda _: torchrun(),
        "mode=DeepSpeed-ZeRO3 world=2 backend=gloo",
        "ZeRO-3",
        DEEPSPEED,
        {"deepspeed": "zero3.json"},
    ),
    "fsdp2": Mode(lambda _: accelerate("fsdp2"), "mode=FSDP2 world=2 backend=gloo", "DTensor", FSDP),
}
EVERY = (*CASES, *MORE_CASES)
SLOW_MODES = {
    "ddp": Mode(lambda _: accelerate("ddp"), MODES["ddp"].line, cases=EVERY),
    "zero1": Mode(
        lambda _: accelerate("zero1"), "mode=DeepSpeed-ZeRO1 world=2 backend=gloo", flags=DEEPSPEED, cases=EVERY
    ),
    "zero2": Mode(MODES["zero2"].launcher, MODES["zero2"].line, flags=DEEPSPEED, cases=EVERY),
    "zero3": Mode(lambda _: accelerate("zero3"), MODES["zero3"].line, "ZeRO-3", DEEPSPEED, cases=EVERY),
    "zero3_torchrun": Mode(
        lambda _: torchrun(), MODES["zero3"].line, "ZeRO-3", DEEPSPEED, {"deepspeed": "zero3.json"}, EVERY
    ),
    "fsdp2": Mode(MODES["fsdp2"].launcher, MODES["fsdp2"].line, "DTensor", FSDP, cases=EVERY),
    "fsdp2_sharded": Mode(
        changed("fsdp2", "FULL_STATE_DICT", "SHARDED_STATE_DICT"), MODES["fsdp2"].line, "DTensor", FSDP, cases=EVERY
    ),
    "fsdp2_meta": Mode(
        changed("fsdp2", "efficient_loading: false", "efficient_loading: true"),
        MODES["fsdp2"].line,
        "DTensor",
        FSDP,
        cases=EVERY,
    ),
}


def launch(mode: Mode, cases: tuple[str, ...], material: Material, folder: Path, **more: Any) -> dict[str, Any]:
    """Run the cases of a mode and return what each wrote; a batch has four pairs, however they are split."""
    processes = 1 if "world=1" in mode.line else 2
    folder.mkdir()
    (folder / "zero3.json").write_text(json.dumps(ZERO3))
    settings = mode.settings | ({"deepspeed": folder / "zero3.json"} if "deepspeed" in mode.settings else {})
    lines = []
    for case in cases:
        base = "base" if "lora" in case else "causal"  # whose score head is fresh
        keys = material.settings(base) | {"output_dir": folder / case} | (CASES | MORE_CASES)[case] | settings | more
        if case == "resumed":
            keys["resume_from_checkpoint"] = folder / "full" / "checkpoint-3"
        batch = 4 // processes
        lines.append(options(per_device_train_batch_size=batch, per_device_eval_batch_size=batch, **keys))
    run_cases(mode.launcher(folder), lines, folder, *mode.flags)
    return {case: results(folder / case) | {"folder": folder / case} for case in cases}


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return prepare(tmp_path_factory.mktemp("material"))


@pytest.fixture(scope="module")
def one(material: Material, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("one") / "runs"
    return launch(MODES["one"], EVERY, material, folder)


ALL_MODES = {
    **{name: mode for name, mode in MODES.items() if name != "one"},
    **{f"{name}-every_case": mode for name, mode in SLOW_MODES.items()},
}


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow if name not in MODES else ()) for name in ALL_MODES],
)
def several(
    request: pytest.FixtureRequest, material: Material, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Mode, dict[str, Any]]:
    mode = ALL_MODES[request.param]
    folder = tmp_path_factory.mktemp("several") / "runs"
    return mode, launch(mode, mode.cases, material, folder)


def losses(run: dict[str, Any], name: str = "loss") -> list[float]:
    return [entry[name] for entry in run["history"] if "loss" in entry]


def test_the_mode_asked_for_ran_and_the_head_stayed_in_float32(several: tuple[Mode, dict[str, Any]]) -> None:
    mode, runs = several
    for case, run in runs.items():
        dtype = "bfloat16 autocast" if "bf16" in case else "float32"
        assert len(run["seen"]) == 2
        for seen in run["seen"]:
            assert seen["mode"] == f"{mode.line} device=cpu dtype={dtype}"
            assert seen["layout"] == (CASES | MORE_CASES)[case]["batch_layout"]
            assert seen["split"] == [mode.split], case
            assert seen["stored"] == ["torch.float32"], case
            assert set(seen["outputs"]) == {"torch.float32"}, case
            # Neither stored nor sent in bfloat16: rounding it would change it, in every call.
            assert seen["weights"], case
            assert all(weight == ["torch.float32", True] for weight in seen["weights"]), case
        heads = {name: weight for name, weight in run["weights"].items() if "score" in name}
        assert [weight.dtype for weight in heads.values()] == [torch.float32], case


def test_two_processes_train_like_one(several: tuple[Mode, dict[str, Any]], one: dict[str, Any]) -> None:
    # Seven rows in global batches of four: accelerate repeats a row in the last one, and it must weigh nothing; after
    # a resume too, where its loader does not know how many rows are left.
    for case, run in several[1].items():
        if "bf16" in case:
            continue
        assert len(losses(run)) == 6
        for name in ("loss", "reward_margin", "chosen_reward", "reward_std"):
            assert losses(run, name) == pytest.approx(losses(one[case], name), abs=2e-5), (case, name)
        assert losses(run, "grad_norm") == pytest.approx(losses(one[case], "grad_norm"), rel=1e-4), case
        for name in ("accuracy", "tie_rate", "num_pairs", "num_tokens"):
            assert losses(run, name) == losses(one[case], name), (case, name)
        assert run["train"]["num_pairs"] == 21
        assert run["weights"].keys() == one[case]["weights"].keys()
        for name, weight in one[case]["weights"].items():
            torch.testing.assert_close(run["weights"][name], weight, rtol=0, atol=1e-4)


def test_bfloat16_stays_near_one_process(several: tuple[Mode, dict[str, Any]], one: dict[str, Any]) -> None:
    for case in (case for case in several[1] if "bf16" in case):
        assert losses(several[1][case]) == pytest.approx(losses(one[case]), abs=0.05), case
        exact = losses(one["lora" if "lora" in case else "full"])[0]
        assert losses(several[1][case])[0] != pytest.approx(exact, abs=1e-5), f"{case} was computed in float32"
        assert several[1][case]["weights"].keys() == one[case]["weights"].keys()


def test_metrics_of_seven_pairs_are_exactly_those_of_their_rewards(several: tuple[Mode, dict[str, Any]]) -> None:
    for case, run in several[1].items():
        for seen in run["seen"]:
            assert len(seen["rewards"]) == 7, case
            assert seen["rewards"] == run["seen"][0]["rewards"], case
        margins = [chosen - rejected for chosen, rejected in run["seen"][0]["rewards"]]
        weighted = [w * math.log1p(math.exp(-margin)) for w, margin in enumerate(margins, 1)]
        found = run["eval"]
        assert found["eval_pairs"] == 7
        assert found["eval_accuracy"] == pytest.approx(sum(m > 0 for m in margins) / 7, abs=1e-7), case
        assert found["eval_reward_margin"] == pytest.approx(sum(margins) / 7, abs=1e-6), case
        assert found["eval_loss"] == pytest.approx(sum(weighted) / 28, abs=1e-6), case


def test_what_is_saved_gives_the_same_rewards_in_plain_transformers(
    several: tuple[Mode, dict[str, Any]], material: Material
) -> None:
    rows = [json.loads(line) for line in (material.folder / "eval.jsonl").read_text().splitlines()]
    for case, run in several[1].items():
        if "bf16" in case:
            continue
        tokenizer = AutoTokenizer.from_pretrained(run["folder"])
        if "lora" in case:
            base = AutoModelForSequenceClassification.from_pretrained(material.folder / "base", num_labels=1)
            model = PeftModel.from_pretrained(base, run["folder"]).eval()
        else:
            model = AutoModelForSequenceClassification.from_pretrained(run["folder"]).eval()
        for row, rewards in zip(rows, run["seen"][0]["rewards"], strict=True):
            for side, reward in zip(("chosen", "rejected"), rewards, strict=True):
                ids = tokenizer.apply_chat_template(row["prompt"] + row[side], return_dict=True, return_tensors="pt")
                with torch.no_grad():
                    assert model(**ids).logits.item() == pytest.approx(reward, abs=1e-5, rel=1e-5), case


def test_a_resumed_run_equals_the_uninterrupted_one(several: tuple[Mode, dict[str, Any]]) -> None:
    runs = several[1]
    if "resumed" not in runs:
        pytest.skip("this launch resumes nothing")
    assert losses(runs["resumed"]) == losses(runs["full"])
    assert runs["resumed"]["eval"]["eval_loss"] == runs["full"]["eval"]["eval_loss"]
    for name, weight in runs["full"]["weights"].items():
        assert torch.equal(runs["resumed"]["weights"][name], weight), name
