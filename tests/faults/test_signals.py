"""SIGTERM: the step is finished, a checkpoint written, exit 143; each signal really sent, to a child process."""

import copy
import functools
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from hf_reward import RewardTrainer
from hf_reward.cli.train import main as train
from hf_reward.training.checkpoints import checkpoints, newest_complete
from hf_reward.training.signals import _deaf_worker
from tests.faults.test_resume import Spy, assert_same_end, in_a_child, spy


def from_outside(pids: list[int]) -> None:
    """Send SIGTERM to these processes from another one, as a scheduler does."""
    sender = os.fork()
    if sender == 0:
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        os._exit(0)
    os.waitpid(sender, 0)


class Told(Spy):
    """Sends itself SIGTERM in a step, and once more while it writes a checkpoint."""

    in_step, in_save, and_workers = -1, False, False

    def training_step(self, *args, **kwargs):
        if self.state.global_step + 1 == self.in_step and self.accelerator.sync_gradients:
            workers = [process.pid for process in multiprocessing.active_children()] if self.and_workers else []
            assert bool(workers) == self.and_workers
            from_outside([os.getpid(), *workers])
        return super().training_step(*args, **kwargs)

    def _save_optimizer_and_scheduler(self, folder):
        super()._save_optimizer_and_scheduler(folder)
        if self.in_save and self.stop_asked:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)  # not reached


def told(model, tokenizer, data, folder: Path, in_step: int, **settings) -> Told:
    one = spy(model, tokenizer, data, folder, **settings)
    one.__class__, one.in_step = Told, in_step
    return one


def exit_of(status: int) -> int:
    assert os.WIFEXITED(status), f"killed by signal {os.WTERMSIG(status)}"
    return os.WEXITSTATUS(status)


@pytest.mark.parametrize(("step", "strategy"), [(5, "steps"), (8, "epoch")])
def test_a_sigterm_ends_the_run_after_its_step_and_a_resume_as_if_it_had_not(
    step: int, strategy: str, reward_model, tokenizer, chat_pairs, tmp_path, capfd
) -> None:
    # The eighth step ends an epoch: what is evaluated there belongs to what is saved. The library's own answer to
    # SIGTERM, which ends with exit code 0, does not take over.
    settings = {"eval_strategy": strategy, "save_strategy": strategy, "enable_jit_checkpoint": True}
    whole = spy(reward_model, tokenizer, chat_pairs, tmp_path / "whole", **settings)
    whole.train()
    one = told(reward_model, tokenizer, chat_pairs, tmp_path / "run", step, **settings)

    def script() -> None:
        one.train()
        (tmp_path / "went on").touch()

    assert exit_of(in_a_child(script)) == 143
    assert not (tmp_path / "went on").exists()
    assert "SIGTERM: this step is finished and a checkpoint is written" in capfd.readouterr().err
    assert newest_complete(tmp_path / "run", verify="full") == (tmp_path / "run" / f"checkpoint-{step}", {})
    assert {path.name.split("-")[0] for path in (tmp_path / "run").iterdir()} == {"checkpoint"}
    resumed = spy(reward_model, tokenizer, chat_pairs, tmp_path / "run", **settings)
    resumed.train(resume_from_checkpoint="auto")
    assert len(resumed.seen) == len(whole.seen) - {5: 9, 8: 14}[step]
    assert_same_end(whole, resumed)


def test_a_second_sigterm_ends_at_once_and_leaves_no_half_checkpoint(
    reward_model, tokenizer, chat_pairs, tmp_path
) -> None:
    one = told(reward_model, tokenizer, chat_pairs, tmp_path, 5)
    one.in_save = True
    status = in_a_child(one.train)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGTERM  # what a shell calls 143
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-3"]
    assert len(list(tmp_path.glob("_tmp-checkpoint-5-*"))) == 1
    resumed = spy(reward_model, tokenizer, chat_pairs, tmp_path, max_steps=4)
    resumed.train(resume_from_checkpoint=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-3", "checkpoint-4"]


def test_a_sigterm_to_the_loading_processes_too_leaves_them_at_work(
    reward_model, tokenizer, chat_pairs, tmp_path
) -> None:
    one = told(reward_model, tokenizer, chat_pairs, tmp_path, 5, dataloader_num_workers=1)
    one.and_workers = True
    assert exit_of(in_a_child(one.train)) == 143
    assert newest_complete(tmp_path, verify="full") == (tmp_path / "checkpoint-5", {})


def test_a_loading_process_hears_its_parent_alone() -> None:
    loader = DataLoader(list(range(100)), num_workers=1, worker_init_fn=functools.partial(_deaf_worker, None))
    batches = iter(loader)
    next(batches)
    (worker,) = multiprocessing.active_children()
    from_outside([worker.pid])
    # The batches fetched ahead are few: these come from a worker that is alive.
    assert [next(batches).item() for _ in range(10)] == list(range(1, 11))
    worker.terminate()
    worker.join(30)
    assert worker.exitcode == 0


def test_a_handler_of_the_program_and_a_run_without_checkpoints_are_left_alone(
    reward_model, tokenizer, chat_pairs, tmp_path
) -> None:
    none = {"save_strategy": "no", "load_best_model_at_end": False}
    one = told(reward_model, tokenizer, chat_pairs, tmp_path / "none", 5, **none)
    assert os.WTERMSIG(in_a_child(one.train)) == signal.SIGTERM
    heard: list[int] = []
    mine = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        other = told(copy.deepcopy(reward_model), tokenizer, chat_pairs, tmp_path / "own", 5, max_steps=6)
        other.train()
    finally:
        signal.signal(signal.SIGTERM, mine)
    assert (heard, other.state.global_step) == ([signal.SIGTERM], 6)
    # Nothing is left behind.
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_the_command_ends_with_143_and_goes_on_by_auto(
    causal_folder, chat_pairs, tmp_path, monkeypatch, capfd
) -> None:
    chat_pairs.to_json(tmp_path / "pairs.jsonl")
    options = {
        "model_name_or_path": causal_folder,
        "dataset_name": tmp_path / "pairs.jsonl",
        "per_device_train_batch_size": 2,
        "num_train_epochs": 2,
        "logging_steps": 1,
        "resume_from_checkpoint": "auto",
    }
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    out = tmp_path / "out"
    step = RewardTrainer.training_step

    def and_a_signal(self, *args, **kwargs):
        if self.state.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(RewardTrainer, "training_step", and_a_signal)
    assert exit_of(in_a_child(lambda: os._exit(train([*words, "--output_dir", str(out)])))) == 143
    monkeypatch.setattr(RewardTrainer, "training_step", step)
    said = capfd.readouterr().err
    assert "stopped by SIGTERM after step 3; checkpoint-3 is complete, go on from it by" in said
    assert "Traceback" not in said
    # The checkpoint alone: no model, no card, no lock.
    assert [path.name for path in out.iterdir()] == ["checkpoint-3"]
    assert train([*words, "--output_dir", str(out)]) == 0
    assert (out / "model.safetensors").is_file()
    assert train([*words, "--output_dir", str(tmp_path / "whole")]) == 0
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    one, two = (json.loads((path / "all_results.json").read_text()) for path in (out, tmp_path / "whole"))
    clocks = {name for name in one if name.endswith(("runtime", "per_second"))}
    assert {name: one[name] for name in one.keys() - clocks} == {name: two[name] for name in two.keys() - clocks}
