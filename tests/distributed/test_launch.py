"""The command starts its own processes: what accelerate is told, what comes back, and what is refused."""

import os
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from hf_reward import ConfigurationError, RewardConfig, run_training
from hf_reward.cli.launch import find_config
from hf_reward.cli.train import main
from hf_reward.training.mode import asked_mode
from tests.distributed.helpers import (
    CONFIGS,
    accelerate,
    finish,
    needs_deepspeed,
    options,
    prepare,
    run,
    start,
    torchrun,
)


LAUNCHER_VARIABLES = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "ACCELERATE_MIXED_PRECISION")


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LAUNCHER_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Namespace, dict[str, str]]]:
    """What `accelerate launch` would be told, with its environment."""
    calls: list[tuple[Namespace, dict[str, str]]] = []

    def launch_command(args: Namespace) -> None:
        if args.config_file.endswith(".py"):
            raise ValueError("this is no YAML")
        calls.append((args, dict(os.environ)))

    monkeypatch.setattr("accelerate.commands.launch.launch_command", launch_command)
    return calls


def test_the_configurations_have_short_names() -> None:
    names = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    assert names == ["cpu", "ddp", "fsdp2", "zero1", "zero2", "zero3"]
    assert [find_config(name) for name in names] == [CONFIGS / f"{name}.yaml" for name in names]
    assert find_config(str(CONFIGS / "ddp.yaml")) == CONFIGS / "ddp.yaml"


def test_accelerate_is_told_all_that_was_said(told: list[Any]) -> None:
    places = [
        "--num_machines",
        "2",
        "--machine_rank",
        "1",
        "--main_process_ip",
        "10.0.0.1",
        "--main_process_port",
        "7",
    ]
    argv = ["--model_name_or_path", "m", "--accelerate_config", "zero3", "--num_processes", "16", *places]
    assert main(argv) == 0
    args, environment = told[0]
    assert args.config_file == str(CONFIGS / "zero3.yaml")
    assert (args.num_processes, args.num_machines, args.machine_rank) == (16, 2, 1)
    assert (args.main_process_ip, args.main_process_port) == ("10.0.0.1", 7)
    assert (args.module, args.training_script) == (True, "hf_reward.cli.train")
    assert args.training_script_args == argv
    assert environment["HF_REWARD_ACCELERATE_CONFIG"] == "zero3"
    assert "HF_REWARD_ACCELERATE_CONFIG" not in os.environ


def test_the_keys_may_stand_in_the_recipe_and_cpu_means_cpu(tmp_path: Path, told: list[Any]) -> None:
    (tmp_path / "recipe.yaml").write_text("accelerate_config: ddp\nnum_processes: 3\n")
    assert main([str(tmp_path / "recipe.yaml"), "--accelerate_config", "cpu"]) == 0
    args, environment = told[0]
    assert args.num_processes == 3
    assert args.config_file == str(CONFIGS / "cpu.yaml")
    assert environment["ACCELERATE_USE_CPU"] == "true"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--accelerate_config", "zero4"], "'zero4'; expected one of cpu, ddp, fsdp2, zero1, zero2, zero3, or a file"),
        (["--accelerate_config", "cpu"], "`num_processes`: found nothing"),
        (["--accelerate_config", "cpu", "--num_processes", "two"], "`num_processes`: found 'two'; expected a whole"),
        (
            ["--accelerate_config", "cpu", "--num_processes", "0"],
            "`num_processes`: found 0; expected a whole number, 1",
        ),
        (["--accelerate_config", __file__, "--num_processes", "2"], "accelerate cannot start it"),
        (["--accelerate_config", "ddp", "--num_processes", "5", "--num_machines", "2"], "found 5 for 2 machines"),
        (
            ["--accelerate_config", "ddp", "--num_processes", "4", "--num_machines", "2"],
            "`machine_rank`: found nothing",
        ),
        (
            ["--num_processes", "4", "--num_machines", "2", "--machine_rank", "2"],
            "`machine_rank`: found 2 of 2 machines",
        ),
    ],
)
def test_what_cannot_be_launched_is_said(
    argv: list[str], message: str, told: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    assert message in capsys.readouterr().err
    assert told == []


@pytest.mark.parametrize(("code", "expected"), [(2, 2), (1, 1), (-9, 1), (-15, 143)])
def test_the_code_of_the_process_that_failed_first_is_the_commands(
    code: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(args: Any) -> None:
        failures = {rank: ProcessFailure(rank, rank, number, "") for rank, number in ((0, -15), (1, code))}
        failures[0].timestamp, failures[1].timestamp = 20, 10
        raise ChildFailedError("train", failures)

    monkeypatch.setattr("accelerate.commands.launch.launch_command", fail)
    assert main(["--accelerate_config", "cpu", "--num_processes", "2"]) == expected


def test_a_launcher_that_is_told_to_stop_ends_with_143(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(args: Any) -> None:
        raise SignalException("stopped", 15)

    monkeypatch.setattr("accelerate.commands.launch.launch_command", stop)
    assert main(["--accelerate_config", "cpu", "--num_processes", "2"]) == 143


def test_another_launcher_beside_accelerate_config_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert main(["--accelerate_config", "zero3", "--num_processes", "2"]) == 2
    assert "'zero3', but `accelerate launch` or `torchrun` has started" in capsys.readouterr().err


def test_a_script_cannot_start_processes() -> None:
    with pytest.raises(ConfigurationError, match="`accelerate_config`: found 'ddp'; run_training starts no processes"):
        run_training(accelerate_config="ddp", model_name_or_path="m", output_dir="o")


def test_a_launch_that_came_to_one_process_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = RewardConfig(str(tmp_path), use_cpu=True, report_to="none")
    assert asked_mode(args).processes == 1
    # What `accelerate launch --cpu --num_processes 2` leaves in the environment of the one process that it starts.
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    with pytest.raises(ConfigurationError, match="asked for several processes and started one"):
        asked_mode(args)


def test_precision_of_launcher_and_recipe_must_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert RewardConfig(str(tmp_path), report_to="none").bf16 is True
    with pytest.raises(
        ConfigurationError, match=r"`bf16`: found False with .* launcher's `mixed_precision` is 'bf16'"
    ):
        RewardConfig(str(tmp_path), bf16=False, report_to="none")


# ---- real launches --------------------------------------------------------------------------------------------------


@pytest.mark.distributed
@pytest.mark.timeout(300)
def test_fsdp_that_would_run_as_ddp_is_refused_with_code_2(tmp_path: Path) -> None:
    recipe = [*options(output_dir=tmp_path / "out", **prepare(tmp_path).settings()), "--num_processes", "2"]
    output = run([sys.executable, "-m", "hf_reward.cli.train", *recipe, "--accelerate_config", "fsdp2"], code=2)
    assert "asked for FSDP2 with 2 process(es)" in output
    assert "running: mode=DDP world=2 backend=gloo device=cpu" in output
    assert not (tmp_path / "out" / "model.safetensors").exists()


HANG = """
import sys, time
from hf_reward import RewardConfig
args = RewardConfig("out", use_cpu=True, report_to="none", ddp_timeout=5)
if args.process_index == 0:
    import torch
    torch.distributed.all_reduce(torch.zeros(1))
time.sleep(120)
"""


@pytest.mark.slow
@pytest.mark.distributed
def test_a_collective_that_one_process_misses_ends_with_an_error(tmp_path: Path) -> None:
    (tmp_path / "hang.py").write_text(HANG)
    code, output = finish(start([*torchrun(), str(tmp_path / "hang.py")]), limit=100)
    assert code == 1
    assert "5000ms" in output


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("how", [["--cpu"], ["--config_file", "multi_cpu.yaml"]])
def test_lines_that_silently_run_one_process_are_refused(how: list[str], tmp_path: Path) -> None:
    (tmp_path / "multi_cpu.yaml").write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_CPU\nuse_cpu: true\nmixed_precision: 'no'\n"
    )
    how = [str(tmp_path / word) if word.endswith(".yaml") else word for word in how]
    command = [*accelerate("ddp")[:4], *how, "--num_processes", "2", "-m", "hf_reward.cli.train"]
    output = run([*command, *options(output_dir=tmp_path / "out", **prepare(tmp_path).settings())], code=1)
    assert "asked for several processes and started one" in output


@pytest.mark.slow
@pytest.mark.distributed
def test_a_launch_of_one_process_is_one_process(tmp_path: Path) -> None:
    recipe = options(output_dir=tmp_path / "out", **prepare(tmp_path).settings())
    output = run([*torchrun(1), "-m", "hf_reward.cli.train", *recipe])
    assert "mode=single world=1 device=cpu dtype=float32" in output


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.timeout(900)
@needs_deepspeed
def test_the_command_starts_deepspeed_with_its_own_communication(tmp_path: Path) -> None:
    recipe = [*options(output_dir=tmp_path / "out", **prepare(tmp_path).settings()), "--num_processes", "2"]
    command = [sys.executable, "-m", "hf_reward.cli.train", *recipe, "--accelerate_config", "zero3"]
    code, output = finish(start(command), limit=600)  # the first time it is compiled
    assert code == 0, output[-3000:]
    assert output.count("mode=DeepSpeed-ZeRO3 world=2 backend=gloo device=cpu dtype=float32") == 1
