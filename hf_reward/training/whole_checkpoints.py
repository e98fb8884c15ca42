"""Checkpoints that are whole or absent: written aside, flushed, listed in a manifest, renamed; only then rotated."""

import contextlib
import logging
import pickle
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from peft import PeftModel
from safetensors import SafetensorError
from torch import nn
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_reward.config import RewardConfig
from hf_reward.errors import ConfigurationError, RunError
from hf_reward.files import flush, whole_or_absent_files, write_json
from hf_reward.training.checkpoints import ASIDE, clear_leftovers, newest_complete, resolve_resume, rotate
from hf_reward.training.disk_space import free_space, warn_of_a_full_disk
from hf_reward.training.fingerprint import ASKED, check_mode, check_same, what_is_asked
from hf_reward.training.folder_lock import only_run_in
from hf_reward.training.manifest import check_trusted, write_manifest
from hf_reward.training.out_of_memory import advise_when_out_of_memory
from hf_reward.training.uploads import upload_checkpoint


logger = logging.getLogger(__name__)

_WEIGHTS = "model*.safetensors*"


class WholeCheckpoints(Trainer):
    """
    A Trainer whose folders `checkpoint-N` appear under that name only when they are complete.

    All processes write into `_tmp-checkpoint-N-ID`; the first one flushes the files, writes `asked.json` (what decides
    the run's result) and `manifest.json` (step, processes, versions, size and SHA-256 of every file), renames the
    folder and then deletes old checkpoints, never the newest and never the best. Resuming takes the newest complete
    checkpoint, says which it skipped, and refuses one of a run that was asked something else. While it trains, no
    other run may work in its folder.

    Attributes:
        checkpoints_written (`int`): Checkpoints that this trainer completed.
    """

    args: RewardConfig
    model: Any
    # Whether resuming compares the sizes of files ("sizes") or their hashes too ("full").
    verify_checkpoints = "sizes"
    checkpoints_written = 0
    _aside: Path | None = None
    _asked: dict[str, Any] | None = None

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As in [`~transformers.Trainer.train`]; `True` means the newest complete checkpoint, `"auto"` it or none."""
        with contextlib.ExitStack() as stack:
            resume = self._agree(self._begin(resume_from_checkpoint, stack))
            # It was done before the first step.
            self.args.eval_on_start = self.args.eval_on_start and not resume
            stack.enter_context(advise_when_out_of_memory(self.args, isinstance(self.model, PeftModel)))
            try:
                return super().train(resume, *args, **kwargs)
            except pickle.UnpicklingError as error:
                raise ConfigurationError(
                    f"{resume} holds more than the plain values that a checkpoint consists of, and was not read: "
                    f"{str(error).splitlines()[0]}"
                ) from error

    def _begin(self, resume: str | bool | None, stack: contextlib.ExitStack) -> str | Exception | None:
        """On the first process: lock the folder, remove what killed runs left, and find where to go on from."""
        if not self.is_world_process_zero():
            return None
        folder = str(self.args.output_dir)
        try:
            stack.enter_context(only_run_in(folder))
            clear_leftovers(folder)
            warn_of_a_full_disk(self.model, self.args)
            self._asked = what_is_asked(self)
            found = resolve_resume(folder, resume, self.verify_checkpoints)
            if found is not None:
                self._check(Path(found))
        except (ConfigurationError, RunError) as error:
            return error
        return found

    def _check(self, checkpoint: Path) -> None:
        """See that this run can go on from a checkpoint, and say where it would not be bit for bit."""
        if not self.args.trust_remote_code:
            check_trusted(checkpoint)
        check_mode(checkpoint, self.accelerator.distributed_type.value, self.args.world_size)
        assert self._asked is not None
        check_same(checkpoint, self._asked)
        if not list(checkpoint.glob("rng_state*.pth")):
            logger.warning("resuming is not bit for bit: %s holds no state of the random generators", checkpoint.name)

    def _agree(self, value: Any) -> Any:
        """The first process's value, on all of them; an error is raised on all of them."""
        values = [value]
        if self.accelerator.num_processes > 1:
            broadcast_object_list(values)
        if isinstance(values[0], Exception):
            raise values[0]
        return values[0]

    def _get_output_dir(self, trial: Any) -> str:
        """The run's folder; while a checkpoint is written, the folder aside."""
        return str(super()._get_output_dir(trial)) if self._aside is None else str(self._aside)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Upload a checkpoint, but not one that still lies aside; the Trainer's own way would pickle the arguments."""
        if self._aside is None and self.is_world_process_zero():
            self._pushed = Path(checkpoint_folder)
            upload_checkpoint(self, self._pushed)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        # The Trainer would delete the newest checkpoint here where the best is another and the limit is 1.
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            return super()._finalize_training(*args, **kwargs)
        finally:
            self.args.save_total_limit = limit

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        run_folder = Path(super()._get_output_dir(trial))
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        aside = run_folder / f"{ASIDE}{self.state.global_step}-{self._agree(uuid.uuid4().hex[:8])}"
        final = run_folder / name
        failure: Exception | None = None
        try:
            self._aside = aside
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError, SafetensorError) as error:
            failure = error
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        finally:
            self._aside = None
        self._stop_if_any_failed(failure, aside, final)
        try:
            if self.args.should_save:
                self._publish(aside, final)
        except OSError as error:
            failure = error
        self._stop_if_any_failed(failure, aside, final)
        self.checkpoints_written += 1
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(final))
        if self.args.should_save:
            best, push = self.state.best_model_checkpoint, getattr(self, "push_in_progress", None)
            keep = {final, *([Path(best)] if best else []), *([self._pushed] if push and not push.is_done() else [])}
            rotate(run_folder, self.args.save_total_limit, keep)

    @contextlib.contextmanager
    def _model_folder(self, folder: str | Path) -> Iterator[Path]:
        """Where the files of a model are written that go to `folder`; there, each is whole, or as it was before."""
        if self._aside is not None or not self.args.should_save:
            yield Path(folder)
            return
        try:
            with whole_or_absent_files(folder, last=("config.json", "adapter_config.json")) as aside:
                yield aside
                written = {path.name for path in aside.glob(_WEIGHTS)}
            # Of an earlier model in another number of files; it would be loaded instead.
            for path in Path(folder).glob(_WEIGHTS):
                if written and path.name not in written:
                    path.unlink()
        except (OSError, SafetensorError) as failure:
            left, _ = newest_complete(self.args.output_dir)
            raise RunError(
                f"the model could not be written to {folder} ({failure}); {_free(folder)}. What was half written is "
                f"removed. The last complete checkpoint is {left.name if left else 'none'}; make room, and resume "
                "from it."
            ) from failure

    def _publish(self, aside: Path, final: Path) -> None:
        """Complete the checkpoint that lies aside, and give it its name."""
        written = aside / final.name
        if self.state.best_model_checkpoint == str(written):
            self.state.best_model_checkpoint = str(final)
            self.state.save_to_json(str(written / "trainer_state.json"))
        write_json(self._asked, written / ASKED)
        mode = self.accelerator.distributed_type.value
        write_manifest(written, self.state.global_step, self.args.world_size, mode)
        if final.exists():
            final.rename(aside / "replaced")
        written.rename(final)
        flush(final.parent)
        shutil.rmtree(aside, ignore_errors=True)

    def _stop_if_any_failed(self, failure: Exception | None, aside: Path, final: Path) -> None:
        """End the run on all processes if one of them could not write; what lies aside is removed."""
        failed = torch.tensor(float(failure is not None), device=self.args.device)
        if self.accelerator.num_processes > 1:
            failed = self.accelerator.reduce(failed, reduction="sum")
        if not failed.item():
            return
        if self.args.should_save:
            shutil.rmtree(aside, ignore_errors=True)
        left, _ = newest_complete(final.parent)
        raise RunError(
            f"{final} could not be written ({failure or 'another process failed'}); {_free(final.parent)}. What was "
            f"half written is removed. The last complete checkpoint is {left.name if left else 'none'}; make room, "
            "and resume from it."
        ) from failure


def _free(folder: str | Path) -> str:
    return f"{free_space(folder) / 2**20:.0f} MiB are free there"
