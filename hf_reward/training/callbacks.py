"""Callbacks of a reward model's training: what was seen so far, when to evaluate, and which numbers look wrong."""

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from hf_reward.data.accounts import SourceCount
from hf_reward.training.schedule import evaluation_steps


logger = logging.getLogger(__name__)

# Logs over which the mean accuracy must stay this near to one half before a warning.
CHANCE_LOGS, CHANCE_DISTANCE = 30, 0.02


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
        # What was seen since the last log: a checkpoint holds it, though it is not yet part of the counts above.
        self.unlogged: dict[str, Any] = {}
        # Takes `unlogged` back when training goes on from a checkpoint.
        self.go_on: Callable[[dict[str, Any]], None] | None = None

    def state(self) -> dict[str, Any]:
        """What the trainer writes into `trainer_state.json`."""
        counts = {
            "num_pairs": self.num_pairs + self.unlogged.get("pairs", 0),
            "num_tokens": self.num_tokens + self.unlogged.get("tokens", 0),
        }
        return {"args": {}, "attributes": counts | {"unlogged": self.unlogged}}

    def add(self, metrics: dict[str, float]) -> None:
        """Count what was seen since the last log."""
        self.num_pairs += int(metrics.get("pairs", 0)) + int(metrics.get("undecided_pairs", 0))
        self.num_tokens += int(metrics.get("tokens", 0))
        self.unlogged = {}

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
        unlogged = attributes.get("unlogged", {})
        self.num_pairs = int(attributes.get("num_pairs", 0)) - unlogged.get("pairs", 0)
        self.num_tokens = int(attributes.get("num_tokens", 0)) - unlogged.get("tokens", 0)
        if unlogged and self.go_on is not None:
            self.go_on(unlogged)


class EvaluationSchedule(TrainerCallback):
    """
    Evaluate `num_evals` times, spread evenly over the run, the last time at its end; 0 evaluates never.

    What `eval_strategy` asks for beside it is done too, unless `num_evals` is 0.
    """

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
        if self.num_evals == 0:
            control.should_evaluate = False
        return control

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Take back what `eval_strategy: epoch` asks for when there are to be no evaluations."""
        if self.num_evals == 0:
            control.should_evaluate = False
        return control


class SuspiciousNumbers(TrainerCallback):
    """
    Warn, once each, of logged numbers that point to a mistake, with its likely cause.

    They are: all rewards equal, a reward margin of exactly 0 (in an evaluation, or in two training logs in a row), and
    a mean accuracy of one half over the last 30 training logs.
    """

    CAUSES: ClassVar[dict[str, str]] = {
        "reward_std": (
            "all rewards are equal (reward_std is 0): the score head may be all zeros or not be training, or every "
            "reward is read at the same token; look at the score head's weight and at the end of the token rows"
        ),
        "reward_margin": (
            "the reward margin is exactly 0: both sides of the pairs may be the same to the model, as after cutting "
            "them to the same tokens; look at some rows of the prepared data"
        ),
        "accuracy": (
            f"the accuracy stayed at one half over {CHANCE_LOGS} logs: chosen and rejected may be mixed up at random, "
            "the learning rate may be far too small or too large, or the difference between the sides is cut off"
        ),
    }

    def __init__(self) -> None:
        self._warned: set[str] = set()
        self._zeros = {"reward_std": 0, "reward_margin": 0}
        self._accuracies: deque[float] = deque(maxlen=CHANCE_LOGS)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Look at one log entry."""
        logs = logs or {}
        for name in self._zeros:
            if name in logs:
                self._zeros[name] = self._zeros[name] + 1 if logs[name] == 0 else 0
            in_evaluation = any(
                key.startswith("eval_") and key.endswith(f"_{name}") and logs[key] == 0 for key in logs
            )
            if self._zeros[name] >= 2 or in_evaluation:
                self._warn(name, state)
        if "accuracy" in logs:
            self._accuracies.append(logs["accuracy"])
            mean = sum(self._accuracies) / len(self._accuracies)
            if len(self._accuracies) == CHANCE_LOGS and abs(mean - 0.5) <= CHANCE_DISTANCE:
                self._warn("accuracy", state)

    def _warn(self, name: str, state: TrainerState) -> None:
        # Equal rewards have a margin of 0 too; one warning is enough.
        if name in self._warned or (name == "reward_margin" and "reward_std" in self._warned):
            return
        self._warned.add(name)
        if state.is_world_process_zero:
            logger.warning("step %d: %s", state.global_step, self.CAUSES[name])


class CountFromTheStart(TrainerCallback):
    """
    Forget the rows of a stream that were read before training, to compare batch layouts: they are read again.

    Args:
        counts (`Iterable[SourceCount]`): The counts of the training stream.
    """

    def __init__(self, counts: Iterable[SourceCount]) -> None:
        self.counts = list(counts)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Before the first row to train on."""
        for count in self.counts:
            count.rows, count.dropped = 0, Counter()
        self.counts = []
