"""Callbacks of a reward model's training: what was seen so far, and when to evaluate."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from hf_reward.training.schedule import evaluation_steps


class SeenCounters(TrainerCallback, ExportableState):
    """
    Pairs and tokens seen in training, summed over processes; they stand in every checkpoint and survive a resume.

    Attributes:
        num_pairs (`int`): Preference pairs that the model was trained on, repeats in later epochs included.
        num_tokens (`int`): Real (non-padding) tokens of their chosen and rejected sequences.
    """

    def __init__(self) -> None:
        self.num_pairs = 0
        self.num_tokens = 0
        # Seen since the last log: part of what a checkpoint holds, not yet part of the counts above.
        self.pending: dict[str, float] = {}

    def state(self) -> dict[str, Any]:
        """What the trainer writes into `trainer_state.json`."""
        pairs = self.num_pairs + int(self.pending.get("pairs", 0))
        tokens = self.num_tokens + int(self.pending.get("tokens", 0))
        return {"args": {}, "attributes": {"num_pairs": pairs, "num_tokens": tokens}}

    def add(self, metrics: dict[str, float]) -> None:
        """Count what was seen since the last log."""
        self.num_pairs += int(metrics.get("pairs", 0))
        self.num_tokens += int(metrics.get("tokens", 0))
        self.pending = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take the counts over from the checkpoint that training resumes from, if any."""
        stateful: Any = state.stateful_callbacks  # a dict once constructed, whatever its annotation says
        saved = stateful.get(type(self).__name__)
        if isinstance(saved, list):
            saved = saved[-1]
        resumed = state.global_step > 0 and isinstance(saved, dict)
        attributes = saved["attributes"] if resumed else {}
        self.num_pairs = int(attributes.get("num_pairs", 0))
        self.num_tokens = int(attributes.get("num_tokens", 0))


class EvaluationSchedule(TrainerCallback):
    """Evaluate `num_evals` times, spread evenly over the run, the last time at its end."""

    def __init__(self, num_evals: int) -> None:
        self.num_evals = num_evals
        self._steps: set[int] = set()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Fix the optimizer steps at which to evaluate, now that their total is known."""
        self._steps = evaluation_steps(state.max_steps, self.num_evals)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Ask for an evaluation when its step has come."""
        if state.global_step in self._steps:
            control.should_evaluate = True
        return control
