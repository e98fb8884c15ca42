"""Checkpoints are whole or absent: killed writers, half files, full disks, flipped bytes; each really caused."""

import copy
import json
import os
import resource
import signal
import subprocess
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import hf_reward.training.manifest as manifests
import hf_reward.training.whole_checkpoints as saving
from hf_reward import ConfigurationError, RewardConfig, RewardTrainer
from hf_reward.errors import RunError
from hf_reward.training.checkpoints import checkpoints, newest_complete, resolve_resume, rotate
from hf_reward.training.disk_space import checkpoint_bytes
from hf_reward.training.manifest import what_is_wrong


def trainer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, data: Dataset, folder: Path, **settings):
    config = {
        "output_dir": str(folder),
        "use_cpu": True,
        "report_to": "none",
        "gradient_checkpointing": False,
        "per_device_train_batch_size": 2,
        "max_steps": 4,
        "save_steps": 2,
        "learning_rate": 1e-3,
    }
    return RewardTrainer(
        model, RewardConfig(**(config | settings)), train_dataset=data, eval_dataset=data, processing_class=tokenizer
    )


@pytest.fixture
def run(reward_model, tokenizer, chat_pairs, tmp_path) -> Path:
    """A run's folder with checkpoint-2 and checkpoint-4."""
    trainer(reward_model, tokenizer, chat_pairs, tmp_path / "run").train()
    return tmp_path / "run"


def test_a_checkpoint_lists_all_its_files_and_nothing_lies_beside_it(run: Path) -> None:
    assert sorted(path.name for path in run.iterdir()) == ["checkpoint-2", "checkpoint-4"]
    manifest = json.loads((run / "checkpoint-4" / "manifest.json").read_text())
    names = {path.name for path in (run / "checkpoint-4").iterdir()} - {"manifest.json"}
    assert set(manifest["files"]) == names
    assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"} <= names
    assert (manifest["step"], manifest["world_size"]) == (4, 1)
    assert manifest["files"]["optimizer.pt"]["size"] == (run / "checkpoint-4" / "optimizer.pt").stat().st_size
    assert what_is_wrong(run / "checkpoint-4", verify="full") is None


@pytest.mark.parametrize("name", ["model.safetensors", "trainer_state.json", "optimizer.pt"])
@pytest.mark.parametrize("with_manifest", [True, False])
def test_a_half_file_is_skipped_and_named(
    name: str, with_manifest: bool, run: Path, reward_model, tokenizer, chat_pairs, caplog
) -> None:
    if not with_manifest:
        for path in run.glob("*/manifest.json"):
            path.unlink()
    path = run / "checkpoint-4" / name
    os.truncate(path, path.stat().st_size // 2)
    found, skipped = newest_complete(run)
    assert found == run / "checkpoint-2"
    assert list(skipped) == ["checkpoint-4"]
    assert name in skipped["checkpoint-4"]
    resumed = trainer(reward_model, tokenizer, chat_pairs, run, max_steps=3, save_strategy="no")
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 3
    assert "checkpoint-4 is skipped" in caplog.text
    assert "going on from checkpoint-2" in caplog.text
    with pytest.raises(ConfigurationError, match=f"is not a complete checkpoint: .*{name}"):
        resumed.train(resume_from_checkpoint=str(run / "checkpoint-4"))


def test_a_missing_file_or_half_manifest_is_incomplete(run: Path) -> None:
    (run / "checkpoint-4" / "scheduler.pt").unlink()
    assert what_is_wrong(run / "checkpoint-4") == "scheduler.pt is missing"
    os.truncate(run / "checkpoint-2" / "manifest.json", 100)
    assert "manifest.json" in what_is_wrong(run / "checkpoint-2")
    with pytest.raises(ConfigurationError, match=r"holds no complete checkpoint \(checkpoint-4: scheduler.pt"):
        resolve_resume(run, "true")
    (run / "checkpoint-4" / "manifest.json").unlink()
    assert what_is_wrong(run / "checkpoint-4") == "only one of optimizer.pt and scheduler.pt is there"


def test_a_flipped_byte_is_found_when_hashes_are_compared(run: Path, reward_model, tokenizer, chat_pairs) -> None:
    path = run / "checkpoint-4" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)
    assert what_is_wrong(run / "checkpoint-4") is None
    assert "right size but other contents" in what_is_wrong(run / "checkpoint-4", verify="full")
    assert newest_complete(run, verify="full")[0] == run / "checkpoint-2"
    resumed = trainer(reward_model, tokenizer, chat_pairs, run, max_steps=3, save_strategy="no")
    resumed.verify_checkpoints = "full"
    resumed.train(resume_from_checkpoint="auto")
    assert resumed.state.global_step == 3


def test_a_checkpoint_of_plain_transformers_is_taken(run: Path) -> None:
    for path in run.glob("*/manifest.json"):
        path.unlink()
    assert resolve_resume(run, True) == str(run / "checkpoint-4")


def test_what_resume_means(tmp_path: Path) -> None:
    assert resolve_resume(tmp_path, None) is None
    assert resolve_resume(tmp_path, False) is None
    assert resolve_resume(tmp_path, "auto") is None
    with pytest.raises(ConfigurationError, match="holds no complete checkpoint"):
        resolve_resume(tmp_path, True)
    with pytest.raises(ConfigurationError, match="there is no such folder"):
        resolve_resume(tmp_path, str(tmp_path / "checkpoint-7"))


def test_old_checkpoints_go_after_the_new_one_stands(reward_model, tokenizer, chat_pairs, tmp_path) -> None:
    class Spy(RewardTrainer):
        def _publish(self, aside: Path, final: Path) -> None:
            seen.append([path.name for path in checkpoints(final.parent)])
            super()._publish(aside, final)

    seen: list[list[str]] = []
    one = trainer(reward_model, tokenizer, chat_pairs, tmp_path, max_steps=4, save_steps=1, save_total_limit=1)
    one.__class__ = Spy
    one.train()
    assert seen == [[], ["checkpoint-1"], ["checkpoint-2"], ["checkpoint-3"]]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]


def test_the_best_and_the_newest_stay_and_broken_ones_go_first(run: Path) -> None:
    for step in (6, 8):
        (run / f"checkpoint-{step}").mkdir()  # broken: empty
    rotate(run, 3, {run / "checkpoint-4"})
    assert [path.name for path in checkpoints(run)] == ["checkpoint-2", "checkpoint-4", "checkpoint-8"]
    rotate(run, 1, {run / "checkpoint-2", run / "checkpoint-4"})
    assert [path.name for path in checkpoints(run)] == ["checkpoint-2", "checkpoint-4"]


def test_the_best_checkpoint_is_known_by_its_final_name(reward_model, tokenizer, chat_pairs, tmp_path) -> None:
    settings = {"eval_strategy": "steps", "eval_steps": 2, "metric_for_best_model": "loss", "save_total_limit": 1}
    one = trainer(reward_model, tokenizer, chat_pairs, tmp_path, load_best_model_at_end=True, **settings)
    one.train()
    best = one.state.best_model_checkpoint
    assert best == str(tmp_path / "checkpoint-4")
    assert json.loads((Path(best) / "trainer_state.json").read_text())["best_model_checkpoint"] == best
    assert what_is_wrong(best, verify="full") is None


def test_a_step_saved_twice_replaces_the_first(run: Path, reward_model, tokenizer, chat_pairs) -> None:
    os.truncate(run / "checkpoint-4" / "optimizer.pt", 10)
    trainer(reward_model, tokenizer, chat_pairs, run).train(resume_from_checkpoint=True)
    assert what_is_wrong(run / "checkpoint-4", verify="full") is None
    assert sorted(path.name for path in run.iterdir()) == ["checkpoint-2", "checkpoint-4"]


class KilledError(Exception):
    """The writer was killed."""


class KilledWhileSaving(RewardTrainer):
    """Saves the checkpoint of step 4 in a child process that kills itself in one of the phases of writing."""

    phase = ""

    def _save_checkpoint(self, model, trial) -> None:
        if self.state.global_step != 4:
            super()._save_checkpoint(model, trial)
            return
        child = os.fork()
        if child == 0:
            try:
                self._arm()
                super()._save_checkpoint(model, trial)
            finally:
                os._exit(0)  # not reached: it is killed before
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        raise KilledError

    def _arm(self) -> None:
        def die(*args, **kwargs):
            os.kill(os.getpid(), signal.SIGKILL)

        def half(name):
            path = next(Path(self.args.output_dir).glob(f"_tmp-*/*/{name}"))
            os.truncate(path, path.stat().st_size // 2)
            die()

        if self.phase == "weights":
            self._save_optimizer_and_scheduler = lambda *args: half("model.safetensors")
        elif self.phase == "optimizer":
            self._save_rng_state = lambda *args: half("optimizer.pt")
        elif self.phase == "state":
            saving.write_manifest = lambda *args: half("trainer_state.json")
        elif self.phase == "manifest":
            manifests.write_json = die
        elif self.phase == "rename":
            Path.rename = die
        elif self.phase == "rotate":
            saving.rotate = die


@pytest.mark.parametrize(
    ("phase", "newest"),
    [("weights", 2), ("optimizer", 2), ("state", 2), ("manifest", 2), ("rename", 2), ("rotate", 4)],
)
def test_a_writer_that_is_killed_leaves_the_previous_one(
    phase: str, newest: int, reward_model, tokenizer, chat_pairs, tmp_path
) -> None:
    whole = trainer(copy.deepcopy(reward_model), tokenizer, chat_pairs, tmp_path / "whole", max_steps=5)
    whole.train()
    killed = trainer(copy.deepcopy(reward_model), tokenizer, chat_pairs, tmp_path / "run", max_steps=5)
    killed.__class__, killed.phase = KilledWhileSaving, phase
    with pytest.raises(KilledError):
        killed.train()
    found, skipped = newest_complete(tmp_path / "run", verify="full")
    assert found == tmp_path / "run" / f"checkpoint-{newest}"
    assert skipped == {}
    assert len(list((tmp_path / "run").glob("_tmp-checkpoint-4-*"))) == (phase != "rotate")
    # What goes on from there ends where an uninterrupted run ends, bit for bit.
    resumed = trainer(reward_model, tokenizer, chat_pairs, tmp_path / "run", max_steps=5)
    resumed.train(resume_from_checkpoint=True)
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], weight), name


def test_a_writer_that_is_killed_while_it_replaces_the_only_checkpoint_loses_none(
    reward_model, tokenizer, chat_pairs, tmp_path
) -> None:
    one = trainer(reward_model, tokenizer, chat_pairs, tmp_path, save_total_limit=1)
    one.train()
    rename, calls = Path.rename, []

    def die_at_the_second(self, target):
        calls.append(target)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(self, target)

    child = os.fork()
    if child == 0:
        Path.rename = die_at_the_second
        one._save_checkpoint(one.model, None)  # the fourth step once more
        os._exit(0)  # not reached
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert checkpoints(tmp_path) == []
    resumed = trainer(reward_model, tokenizer, chat_pairs, tmp_path, save_total_limit=1, max_steps=5)
    steps = []
    step = resumed.training_step
    resumed.training_step = lambda *args, **kwargs: steps.append(resumed.state.global_step) or step(*args, **kwargs)
    resumed.train(resume_from_checkpoint=True)
    assert steps == [4]
    assert what_is_wrong(tmp_path / "checkpoint-5", verify="full") is None


def test_a_file_that_cannot_grow_ends_the_run_and_keeps_the_last(
    reward_model, tokenizer, chat_pairs, tmp_path, monkeypatch
) -> None:
    one = trainer(reward_model, tokenizer, chat_pairs, tmp_path / "run")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    save = RewardTrainer._save_optimizer_and_scheduler

    def limited(self, folder):
        if self.state.global_step == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        save(self, folder)

    monkeypatch.setattr(RewardTrainer, "_save_optimizer_and_scheduler", limited)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(RunError, match=r"checkpoint-4 could not be written .* last complete checkpoint is checkp"):
            one.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoint-2"]
    assert what_is_wrong(tmp_path / "run" / "checkpoint-2", verify="full") is None


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_ends_the_run_and_keeps_the_last(reward_model, tokenizer, chat_pairs, tmp_path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", disk], check=False).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        one = trainer(reward_model, tokenizer, chat_pairs, disk / "run")
        with pytest.raises(RunError, match="checkpoint-4 could not be written"):
            one.train()
        assert [path.name for path in (disk / "run").iterdir()] == ["checkpoint-2"]
        weights = load_file(disk / "run" / "checkpoint-2" / "model.safetensors")
        assert all(torch.isfinite(weight).all() for weight in weights.values())
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
@pytest.mark.parametrize(("size", "said"), [("200k", 1), ("20m", 0)])
def test_a_disk_without_room_for_one_checkpoint_is_named_before_the_first_step(
    size: str, said: int, reward_model, tokenizer, chat_pairs, tmp_path, caplog
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], check=False).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        one = trainer(reward_model, tokenizer, chat_pairs, disk / "run", max_steps=1, save_steps=1)
        steps = []
        step = one.training_step
        one.training_step = lambda *args, **kwargs: steps.append(caplog.text) or step(*args, **kwargs)
        with pytest.raises(RunError, match="checkpoint-1 could not be written") if said else nullcontext():
            one.train()
        assert steps[0].count("MiB are free there, and a checkpoint takes about") == said
        if not said:
            files = [path.stat().st_size for path in (disk / "run" / "checkpoint-1").iterdir()]
            assert checkpoint_bytes(one.model, one.args) == pytest.approx(sum(files), rel=0.3)
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_run_killed_while_it_saves_its_model_leaves_the_model_that_was_there(
    reward_model, tokenizer, chat_pairs, tmp_path
) -> None:
    one = trainer(reward_model, tokenizer, chat_pairs, tmp_path, save_strategy="no", max_steps=1)
    one.save_model()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    one.train()

    def half(folder, *args, **kwargs):
        path = Path(folder) / "model.safetensors"
        os.truncate(path, path.stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        one.processing_class.save_pretrained = half
        one.save_model()
        os._exit(0)  # not reached
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1
    # The next run in the folder removes what was left, and its model takes the place of the first.
    again = trainer(reward_model, tokenizer, chat_pairs, tmp_path, save_strategy="no", max_steps=1)
    again.train()
    again.save_model()
    assert {path.name for path in tmp_path.iterdir()} == before.keys()
    assert before["model.safetensors"] != (tmp_path / "model.safetensors").read_bytes()


def test_a_model_that_does_not_fit_on_the_disk_leaves_nothing_and_says_where_to_go_on(
    reward_model, tokenizer, chat_pairs, tmp_path
) -> None:
    one = trainer(reward_model, tokenizer, chat_pairs, tmp_path / "run", save_steps=1, max_steps=1)
    one.train()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(
            RunError,
            match=r"the model could not be written to .*run \(.*MiB are free there.*is checkpoint-1; make room",
        ):
            one.save_model()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoint-1"]


@pytest.mark.parametrize(("first", "then"), [("50KB", "1GB"), ("1GB", "50KB")])
def test_a_model_in_another_number_of_files_replaces_the_one_before(
    first: str, then: str, reward_model, tokenizer, chat_pairs, tmp_path, monkeypatch
) -> None:
    one = trainer(reward_model, tokenizer, chat_pairs, tmp_path, save_strategy="no", max_steps=1)
    save = type(reward_model).save_pretrained
    for size in (first, then):
        monkeypatch.setattr(
            type(reward_model),
            "save_pretrained",
            lambda self, *args, size=size, **kw: save(self, *args, max_shard_size=size, **kw),
        )
        with torch.no_grad():
            one.model.score.weight.add_(1)
        one.save_model()
    loaded = type(reward_model).from_pretrained(tmp_path)
    assert torch.equal(loaded.score.weight, one.model.score.weight)
    assert (tmp_path / "model.safetensors").is_file() is (then == "1GB")
    assert (tmp_path / "model.safetensors.index.json").is_file() is (then == "50KB")
