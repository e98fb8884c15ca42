"""Numbers that go wrong: a NaN or Inf in a loss or in the gradients stops the run before the weights are touched."""

import copy
import logging
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import DistributedType, gather_object
from torch import Tensor, nn
from transformers import Trainer

from hf_reward.config import RewardConfig
from hf_reward.data.layouts import best_completions
from hf_reward.errors import RunError


logger = logging.getLogger(__name__)

_ROWS_SHOWN = 5


@dataclass
class _MicroStep:
    """What one micro-step leaves behind until its optimizer step was checked: the batch and its groups' losses."""

    batch: dict[str, Any]
    losses: Tensor


class FiniteSteps(Trainer):
    """
    A Trainer that looks, once per optimizer step and before it, whether loss and gradient norm are finite.

    The losses of the micro-steps are kept on the device and read together with the gradient norm, in one
    synchronisation and, with several processes, one reduction of two numbers. What is not finite ends the run on all
    processes, with the weights, the optimizer and the last checkpoint as they were; up to `args.skip_non_finite_steps`
    such steps are left out instead, as if their pairs had not been seen.

    DeepSpeed makes its step inside the backward pass; there the check stands between the two, on the engine's `step`.
    """

    args: RewardConfig
    _training_sums: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._micro_steps: list[_MicroStep] = []
        self._before_step: tuple[Tensor, Any] | None = None
        self.skipped_steps = 0
        super().__init__(*args, **kwargs)

    def watch(self, batch: dict[str, Any], losses: Tensor) -> None:
        """Remember the losses of a micro-step's groups; nothing is read from the device."""
        if not self.is_in_train:
            return
        if not self._micro_steps and self.args.skip_non_finite_steps:
            self._before_step = self._tr_loss.clone(), copy.deepcopy(self._training_sums)
        self._micro_steps.append(_MicroStep(batch, losses.detach()))

    def training_step(self, model: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """One micro-step; the first one puts the check into a DeepSpeed engine."""
        if self.accelerator.distributed_type != DistributedType.DEEPSPEED:
            return super().training_step(model, *args, **kwargs)
        self._guard_engine(model)
        skipped = self.skipped_steps
        loss = super().training_step(model, *args, **kwargs)
        # The engine's step was in there: what it left out must not be added to the log now.
        return loss if skipped == self.skipped_steps else torch.zeros_like(loss)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        grad_norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if self.accelerator.distributed_type != DistributedType.DEEPSPEED:
            # With a loss scale, overflowing gradients are part of finding it, and the scaler leaves the step out.
            scaled = self.accelerator.scaler is not None
            if not self._finite(torch.zeros(()) if scaled else grad_norm):
                # Without gradients the optimizer's step changes neither weights nor moments.
                optimizer: Any = self.optimizer
                optimizer.zero_grad()
        return grad_norm

    def _finite(self, grad_norm: Any) -> bool:
        """Whether the step may be made; `False` for one that is left out."""
        micro_steps, self._micro_steps = self._micro_steps, []
        device = self.args.device
        losses = [torch.isfinite(micro.losses).all() for micro in micro_steps]
        norm = grad_norm.full_tensor() if hasattr(grad_norm, "full_tensor") else grad_norm
        norm_is_finite = torch.isfinite(torch.as_tensor(norm, device=device)).all()
        bad = 1 - torch.stack([torch.stack(losses).all() if losses else norm_is_finite, norm_is_finite]).float()
        if self.accelerator.num_processes > 1:
            bad = self.accelerator.reduce(bad, reduction="sum")
        in_loss, in_norm = (bad > 0).tolist()
        if not in_loss and not in_norm:
            return True
        what = "loss" if in_loss else "gradient norm"
        message = f"the {what} of optimizer step {self.state.global_step + 1} is not finite"
        message += f" ({'; '.join(self._places(micro_steps, bool(in_loss)))})"
        if self.skipped_steps >= self.args.skip_non_finite_steps:
            raise RunError(self._advice(message))
        self._leave_out(message)
        return False

    def _leave_out(self, message: str) -> None:
        """Count a step that is not made, and forget what it added to the log."""
        self.skipped_steps += 1
        limit = self.args.skip_non_finite_steps
        logger.warning("%s; the step is left out (%d of at most %d)", message, self.skipped_steps, limit)
        if self._before_step is not None:
            loss, self._training_sums = self._before_step
            self._tr_loss.copy_(loss)

    def _advice(self, message: str) -> str:
        skipped = f" {self.skipped_steps} such steps were left out before." if self.skipped_steps else ""
        return (
            f"{message[0].upper()}{message[1:]}; the step was not made, and the weights and the last checkpoint are "
            f"untouched.{skipped} Look at these rows, lower `learning_rate` or `max_grad_norm`, train in bfloat16 "
            "instead of float16, or leave out up to k such steps with `skip_non_finite_steps: k`."
        )

    def _places(self, micro_steps: list[_MicroStep], only_bad: bool) -> list[str]:
        """
        Process by process, the rows whose loss is not finite, or all rows of the step where only the gradient is not.

        Every process must come here together.
        """
        numbers = [number for micro in micro_steps for number in self._rows(micro, only_bad)]
        mine = []
        if numbers:
            shown = ", ".join(str(number) for number in numbers[:_ROWS_SHOWN])
            more = f" and {len(numbers) - _ROWS_SHOWN} more" if len(numbers) > _ROWS_SHOWN else ""
            mine = [f"rank {self.accelerator.process_index}: rows {shown}{more} of the prepared training data"]
        return list(gather_object(mine)) if self.accelerator.num_processes > 1 else mine

    def _rows(self, micro: _MicroStep, only_bad: bool) -> list[int | str]:
        """Numbers (from 0) in the training data of a micro-batch's groups."""
        best = best_completions(micro.batch)
        wanted = [not (only_bad and torch.isfinite(loss)) for loss in micro.losses]
        return [self._row_of(ids) for ids, is_wanted in zip(best, wanted, strict=True) if is_wanted]

    def _row_of(self, chosen: list[int]) -> int | str:
        """The row of the training data with these tokens on its preferred side, or how that side starts."""
        dataset: Any = self.train_dataset
        tokenizer: Any = self.processing_class
        columns = getattr(dataset, "column_names", None) or []
        column = next(
            (name for name in ("chosen_input_ids", "chosen_ids", "completion_input_ids") if name in columns), ""
        )
        if column and hasattr(dataset, "__len__"):
            for number, ids in enumerate(dataset[column]):
                if list(ids[0] if column == "completion_input_ids" else ids) == chosen:
                    return number
        text = chosen if tokenizer is None else tokenizer.decode(chosen)
        return repr(str(text)[:60])

    def _guard_engine(self, engine: Any) -> None:
        """Let a DeepSpeed engine make its step only when loss and gradients are finite."""
        if getattr(engine, "_hf_reward_guarded", False):
            return
        step = engine.step

        def guarded(*args: Any, **kwargs: Any) -> Any:
            if engine.is_gradient_accumulation_boundary() and not self._finite(_largest_gradient(engine)):
                # What the engine's own step does when it finds an overflow.
                engine.optimizer.zero_grad()
                if hasattr(engine.optimizer, "averaged_gradients"):
                    engine.optimizer.averaged_gradients = {}
                engine.micro_steps += 1
                return None
            return step(*args, **kwargs)

        engine.step = guarded
        engine._hf_reward_guarded = True


def _largest_gradient(engine: Any) -> Tensor:
    """A number that is finite only if all gradients that this process holds are (ZeRO holds a part on each)."""
    groups = getattr(engine.optimizer, "averaged_gradients", None) or {}
    held = [gradient for group in groups.values() for gradient in group or () if gradient is not None]
    if not held:
        from deepspeed.utils import safe_get_full_grad

        trained = [parameter for parameter in engine.module.parameters() if parameter.requires_grad]
        held = [gradient for gradient in map(safe_get_full_grad, trained) if gradient is not None]
    largest = [gradient.float().abs().amax() for gradient in held if gradient.numel()]
    return torch.stack(largest).amax() if largest else torch.zeros((), device=engine.device)
