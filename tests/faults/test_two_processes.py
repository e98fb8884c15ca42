"""One of two processes is told to stop, is killed, raises, or never comes: the other ends too, and nothing is half."""

import copy
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState

from hf_reward.errors import RunError
from hf_reward.training.checkpoints import newest_complete
from tests.faults.test_resume import Spy, spy


pytestmark = pytest.mark.distributed

SETTINGS = {
    "eval_strategy": "no",
    "load_best_model_at_end": False,
    "gradient_accumulation_steps": 1,
    "logging_steps": 1,
}


def two_processes(train: Callable[[int], None], folder: Path) -> tuple[list[int], list[str]]:
    """Run something in two processes of one gloo group; how they ended (as a shell says it), and what they said."""
    folder.mkdir(exist_ok=True)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    children = [_start(train, rank, port, folder / f"rank{rank}") for rank in (0, 1)]
    codes = []
    for child in children:
        for _ in range(600):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                break
            time.sleep(0.1)
        else:
            for left in children[len(codes) :]:
                os.kill(left, signal.SIGKILL)
            pytest.fail("a process was still there after a minute")
        codes.append(os.waitstatus_to_exitcode(status))
    return codes, [(folder / f"rank{rank}").read_text() for rank in (0, 1)]


def _start(train: Callable[[int], None], rank: int, port: int, output: Path) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        handle = os.open(output, os.O_WRONLY | os.O_CREAT)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout = sys.stderr = os.fdopen(2, "w", buffering=1)
        group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
        os.environ |= {name: str(value) for name, value in group.items()} | {"MASTER_ADDR": "127.0.0.1"}
        # This process was alone until now, as accelerate remembers.
        AcceleratorState._reset_state(reset_partial_state=True)
        PartialState._reset_state()
        GradientState._reset_state()
        train(rank)
        code = 0
    except SystemExit as end:
        code = int(end.code)
    finally:
        if code == 1:
            traceback.print_exc()
        os._exit(code)


class InStep(Spy):
    """Does something at the beginning of its third step."""

    act: Callable[[], None] | None = None

    def training_step(self, *args, **kwargs):
        if self.state.global_step == 2 and self.act is not None:
            self.act()
        return super().training_step(*args, **kwargs)


def runner(act: Callable[[int], None], model, tokenizer, data, folder: Path, **settings) -> Callable[[int], None]:
    def train(rank: int) -> None:
        one = spy(model, tokenizer, data, folder, **(SETTINGS | {"save_steps": 2} | settings))
        one.__class__, one.act = InStep, lambda: act(rank)
        one.train()

    return train


def test_a_sigterm_to_one_of_two_stops_both_and_one_process_goes_on(
    reward_model, tokenizer, chat_pairs, tmp_path, caplog
) -> None:
    def told(rank: int) -> None:
        if rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    settings = {"logging_steps": 4, "num_train_epochs": 2, "learning_rate": 1e-4}
    train = runner(told, reward_model, tokenizer, chat_pairs, tmp_path / "run", **settings)
    codes, said = two_processes(train, tmp_path / "said")
    assert codes == [143, 143], said
    assert "SIGTERM: this step is finished" in said[1]
    assert "SIGTERM: this step is finished" not in said[0]
    run = tmp_path / "run"
    assert newest_complete(run, verify="full") == (run / "checkpoint-3", {})
    # No model, no lock, nothing half written.
    assert sorted(path.name for path in run.iterdir()) == ["checkpoint-2", "checkpoint-3"]
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= {path.name for path in (run / "checkpoint-3").iterdir()}
    # With another number of processes, which is said, the end is the same up to rounding.
    one_process = SETTINGS | settings | {"per_device_train_batch_size": 2}
    resumed = spy(reward_model, tokenizer, chat_pairs, run, **one_process)
    resumed.train(resume_from_checkpoint=True)
    assert "resuming is not bit for bit: it was written by 2 processes, now there are 1" in caplog.text
    whole = spy(reward_model, tokenizer, chat_pairs, tmp_path / "whole", **one_process)
    whole.train()
    for name, weight in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], weight, rtol=0, atol=1e-6)
    logs = [[entry for entry in trainer.state.log_history if "loss" in entry] for trainer in (whole, resumed)]
    assert [entry["num_pairs"] for entry in logs[0]] == [entry["num_pairs"] for entry in logs[1]] == [7, 14]
    for first, second in zip(*logs, strict=True):
        for name in ("loss", "reward_margin", "accuracy"):
            assert second[name] == pytest.approx(first[name], abs=1e-6), name


def test_when_one_of_two_is_killed_the_other_ends_with_an_error(reward_model, tokenizer, chat_pairs, tmp_path) -> None:
    def die(rank: int) -> None:
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    codes, said = two_processes(runner(die, reward_model, tokenizer, chat_pairs, tmp_path / "run"), tmp_path / "said")
    assert codes == [1, -signal.SIGKILL]
    assert "by peer" in said[0]
    assert newest_complete(tmp_path / "run", verify="full") == (tmp_path / "run" / "checkpoint-2", {})
    # What goes on is alone in the folder again.
    resumed = spy(reward_model, tokenizer, chat_pairs, tmp_path / "run",
                  **SETTINGS, per_device_train_batch_size=2, max_steps=3)  # fmt: skip
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 3


def test_when_one_of_two_raises_in_its_data_both_end_and_its_traceback_is_shown(
    reward_model, tokenizer, chat_pairs, tmp_path
) -> None:
    def train(rank: int) -> None:
        one = spy(reward_model, tokenizer, chat_pairs, tmp_path / "run", **SETTINGS)
        collate, calls = one.data_collator, []

        def collator(rows):
            calls.append(rows)
            if rank == 1 and len(calls) == 3:
                raise ValueError("the third batch cannot be collated")
            return collate(rows)

        one.data_collator = collator
        one.train()

    codes, said = two_processes(train, tmp_path / "said")
    assert codes == [1, 1]
    assert "ValueError: the third batch cannot be collated" in said[1]
    assert "by peer" in said[0]


def test_a_process_that_never_comes_ends_the_other_by_the_time_out(
    reward_model, tokenizer, chat_pairs, tmp_path
) -> None:
    def wait(rank: int) -> None:
        if rank == 1:
            time.sleep(8)
            os._exit(3)

    train = runner(wait, reward_model, tokenizer, chat_pairs, tmp_path / "run", ddp_timeout=3)
    codes, said = two_processes(train, tmp_path / "said")
    assert codes == [1, 3]
    assert "Timed out waiting 3000ms" in said[0]
    assert newest_complete(tmp_path / "run", verify="full") == (tmp_path / "run" / "checkpoint-2", {})


def test_a_disk_that_is_full_for_one_of_two_ends_both(reward_model, tokenizer, chat_pairs, tmp_path) -> None:
    class Full(Spy):
        def _save_rng_state(self, folder):
            if self.accelerator.process_index == 1 and self.state.global_step == 4:
                raise OSError(28, "No space left on device")
            super()._save_rng_state(folder)

    def train(rank: int) -> None:
        one = spy(copy.deepcopy(reward_model), tokenizer, chat_pairs, tmp_path / "run", **SETTINGS | {"save_steps": 2})
        one.__class__ = Full
        with pytest.raises(RunError, match=r"checkpoint-4 could not be written .* last complete checkpoint is checkp"):
            one.train()

    codes, said = two_processes(train, tmp_path / "said")
    assert codes == [0, 0], said
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoint-2"]
