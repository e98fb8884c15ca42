"""Told to stop: a SIGTERM ends a run after the step that it is in, with a checkpoint, on all processes."""

import contextlib
import datetime
import functools
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.distributed.distributed_c10d import _set_pg_timeout
from torch.utils.data import DataLoader
from transformers import TrainingArguments

from hf_reward.errors import Stopped
from hf_reward.training.resuming import ExactResume


logger = logging.getLogger(__name__)

_SAID = (
    b"SIGTERM: this step is finished and a checkpoint is written, then the run ends; a second one ends it at once\n"
)


class StopsOnSignal(ExactResume):
    """
    A Trainer that answers SIGTERM while it trains: it finishes the step, writes a checkpoint, and leaves by
    [`Stopped`], an exit with code 143, so that nothing after `train()` runs.

    One process that is told is enough: all learn of it in the reduction before the next optimizer step. A step that
    ends an epoch is followed by what the epoch's end asks for, an evaluation for instance, so that a resume does not
    miss it. A second SIGTERM ends the process at once. Where the program has a handler of its own, or checkpoints are
    not wanted (`save_strategy: no`), SIGTERM is left alone.
    """

    _epoch_ended_at = -1

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As in [`~transformers.Trainer.train`]."""
        _hold_to_time_out(self.args)
        with self._listening():
            return super().train(*args, **kwargs)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """As in [`~transformers.Trainer.get_train_dataloader`]; its workers do not hear SIGTERM."""
        loader = super().get_train_dataloader()
        # accelerate hands out a wrapper, and the one inside makes the workers.
        inner = getattr(loader, "base_dataloader", loader)
        if inner.num_workers:
            inner.worker_init_fn = functools.partial(_deaf_worker, inner.worker_init_fn)
        return loader

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        self.stop_asked = self.stop_agreed = False
        in_main_thread = threading.current_thread() is threading.main_thread()
        taken = signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        if self.args.save_strategy == "no" or not in_main_thread or taken:
            yield
            return
        signal.signal(signal.SIGTERM, self._ask_to_stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _ask_to_stop(self, number: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self.stop_asked = True
        # Not by logging, whose handlers may be in the middle of a line.
        os.write(2, _SAID)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        written = self.checkpoints_written
        super()._maybe_log_save_evaluate(*args, **kwargs)
        if not self.stop_agreed:
            return
        step = self.state.global_step
        if float(self.state.epoch or 0).is_integer() and self._epoch_ended_at != step:
            # The end of the epoch comes here once more.
            self._epoch_ended_at = step
            return
        if self.checkpoints_written == written:
            self._save_checkpoint(self.model_wrapped, trial=None)
            self.control = self.callback_handler.on_save(self.args, self.state, self.control)
        if self.is_world_process_zero():
            logger.warning(
                "stopped by SIGTERM after step %d; checkpoint-%d is complete, go on from it by "
                "`resume_from_checkpoint: true`",
                step,
                step,
            )
        if torch.distributed.is_initialized():
            # Left to the end of the interpreter, gloo may abort when another process is gone first.
            torch.distributed.destroy_process_group()
        raise Stopped


def _hold_to_time_out(args: TrainingArguments) -> None:
    """
    Wait for another process no longer than `ddp_timeout`.

    transformers says so when it makes the group of processes, but not where `use_cpu` is set: there a process that
    never comes would be waited for half an hour. To go when `TrainingArguments` passes it on there too.
    """
    if args.use_cpu and torch.distributed.is_initialized():
        _set_pg_timeout(datetime.timedelta(seconds=args.ddp_timeout))


def _deaf_worker(init: Callable[[int], None] | None, worker: int) -> None:
    """
    Let a loading process hear SIGTERM from the process that it serves alone.

    One that dies of a signal to the whole group would take the training process with it; one that did not hear its
    parent, which ends what is left of its workers that way, would keep it from ending.
    """
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_leave_when_told_by_the_parent, daemon=True).start()
    if init is not None:
        init(worker)


def _leave_when_told_by_the_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
