"""Going on where a run was: what stands between two logs is saved too, so that nothing that is logged differs."""

from typing import Any

import torch
from torch import nn

from hf_reward.metrics import PreferenceSums
from hf_reward.metrics.preference import NAMES
from hf_reward.training.callbacks import SeenCounters
from hf_reward.training.finiteness import FiniteSteps
from hf_reward.training.whole_checkpoints import WholeCheckpoints


class ExactResume(FiniteSteps, WholeCheckpoints):
    """
    A Trainer whose log after a resume is that of an uninterrupted run, number by number.

    Weights, optimizer, schedule, random generators and the place in the data are the Trainer's own. Added here are the
    loss and the metrics summed since the last log, the loss of the whole run, and the count of steps left out; they
    stand in `trainer_state.json` with the counters of pairs and tokens.
    """

    counters: SeenCounters
    _training_sums: PreferenceSums
    _loss_is_of_the_whole_run = False

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As in [`~transformers.Trainer.train`]."""
        self.counters.go_on = self._go_on
        self._loss_is_of_the_whole_run = False
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As in [`~transformers.Trainer.log`]; `train_loss` is the mean over the run, before and after a resume."""
        if "train_loss" in logs and self._loss_is_of_the_whole_run:
            logs["train_loss"] = self._total_loss_scalar / max(self.state.global_step, 1)
        super().log(logs, start_time)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.counters.unlogged = self._unlogged()
        super()._save_checkpoint(model, trial)

    def _unlogged(self) -> dict[str, Any]:
        """What was summed since the last log, over all processes; every process must come here together."""
        several = self.accelerator.num_processes > 1
        loss = self.accelerator.reduce(self._tr_loss, reduction="mean") if several else self._tr_loss
        reduce = (lambda tensor: self.accelerator.reduce(tensor, reduction="sum")) if several else None
        sums = self._training_sums.totals(reduce, self.args.device)
        total = dict(zip(NAMES, sums, strict=True))
        return {
            "pairs": int(total["pairs"] + total["undecided"]),
            "tokens": int(total["tokens"]),
            "sums": sums,
            "loss": loss.item(),
            "loss_logged": self._total_loss_scalar,
            "step_logged": self._globalstep_last_logged,
            "skipped_steps": self.skipped_steps,
        }

    def _go_on(self, unlogged: dict[str, Any]) -> None:
        """Take back what [`~ExactResume._unlogged`] gave; sums over processes are the first one's from now on."""
        if self.is_world_process_zero():
            self._training_sums.restore(unlogged["sums"], self.args.device)
        self._tr_loss += torch.tensor(unlogged["loss"], device=self.args.device)
        self._total_loss_scalar = unlogged["loss_logged"]
        self._globalstep_last_logged = unlogged["step_logged"]
        self.skipped_steps = unlogged["skipped_steps"]
        self._loss_is_of_the_whole_run = True

    def _load_callback_state(self) -> None:
        """`restore_callback_states_from_checkpoint` puts new callbacks in the places of those in the checkpoint."""
        super()._load_callback_state()
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, SeenCounters):
                self.counters = callback
                callback.go_on = self._go_on
