"""Which batch layout a run gets: the fastest that this model computes exactly, shown before it is trusted."""

import itertools
import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_reward.config import RewardConfig
from hf_reward.data.collator import PreferenceCollator, completions_of
from hf_reward.data.layouts import BatchLayout, laid_out_tokens, shared_prompt_length
from hf_reward.errors import ConfigurationError
from hf_reward.modeling.adapters import base_model
from hf_reward.modeling.score_head import completion_rewards, reads_last_token
from hf_reward.modeling.shared_prompt import REPLACES, use_attention


logger = logging.getLogger(__name__)

# Sharing prompts that spares less than this part of the tokens is not worth its second attention call.
WORTH_SHARING = 0.1
# Rows by which that is estimated, and pairs over which rewards are compared in half precision.
ROWS_LOOKED_AT, ROWS_IN_HALF_PRECISION = 1000, 32
# Largest difference of rewards between two layouts: in float32; and in half precision as a part of the rewards'
# standard deviation, or as a multiple of what the padded layout differs from itself.
FLOAT32_BOUND, HALF_BOUND, HALF_NOISE = 1e-4, 0.05, 3.0
# Models with sliding windows whose layers hand the window to their attention: rewards and gradients are compared with
# a window shorter than the prompt in tests/equivalence/test_layouts.py.
EXACT_WINDOWS = frozenset({"mistral", "qwen2", "qwen3", "gemma3_text", "qwen3_moe", "mixtral", "phi3", "olmo3"})
_SLOWER: dict[BatchLayout, tuple[BatchLayout, ...]] = {
    "shared_prompt": ("packed", "padded"),
    "packed": ("padded",),
    "padded": (),
}

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class LayoutChoice:
    """A batch layout, why it was chosen, and the part of the tokens of whole sequences that sharing would spare."""

    layout: BatchLayout
    reason: str
    spared: float = 0.0


def choose_layout(args: RewardConfig, model: PreTrainedModel | PeftModel, dataset: Any) -> LayoutChoice:
    """
    The layout that the settings, the model's structure and the data allow; see [`prove_layout`] for its proof.

    Raises:
        `ConfigurationError`: `batch_layout` names one that this model cannot have.
    """
    if args.batch_layout == "padded":
        return LayoutChoice("padded", "as set")
    against = only_padded(model, args)
    if against is not None:
        if args.batch_layout != "auto":
            raise ConfigurationError(
                f"`batch_layout`: found {args.batch_layout}, but {against}; expected padded, or auto"
            )
        return LayoutChoice("padded", against)
    spared = spared_by_sharing(first_rows(dataset, ROWS_LOOKED_AT))
    if args.batch_layout != "auto":
        return LayoutChoice(args.batch_layout, "as set", spared)
    if spared < WORTH_SHARING:
        return LayoutChoice("packed", f"sharing prompts would spare only {spared:.1%} of the tokens", spared)
    return LayoutChoice("shared_prompt", f"sharing prompts spares {spared:.1%} of the tokens", spared)


def only_padded(model: PreTrainedModel | PeftModel, args: RewardConfig | None = None) -> str | None:
    """Why a model can have no other layout than the padded one, as far as structure and settings tell; or `None`."""
    base = base_model(model)
    config = base.config.get_text_config()
    name = type(base).__name__
    if not reads_last_token(base):
        return f"{name} is an encoder, whose prompt would see the completions"
    other_layers = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if other_layers:
        return f"{name} has layers of {', '.join(sorted(other_layers))}"
    if config._attn_implementation not in REPLACES:
        return f"the attention implementation is {config._attn_implementation}"
    if not type(base)._can_set_attn_implementation():
        return f"{name} does not use transformers' attention interface"
    if len(set(getattr(base, "hf_device_map", {}).values())) > 1:
        return "the model is split over several devices"
    if isinstance(model, PeftModel) and any(c.is_prompt_learning for c in model.peft_config.values()):
        return "the adapter puts learned tokens in front of every row"
    return None if args is None else _settings_against(config, args)


def _settings_against(config: Any, args: RewardConfig) -> str | None:
    dropout = max(getattr(config, key, None) or 0.0 for key in ("attention_dropout", "attn_pdrop"))
    if dropout and not args.disable_dropout:
        return f"attention dropout is on ({dropout})"
    if args.torch_compile:
        return "`torch_compile` is on, which would compile again for every batch"
    return None


def spared_by_sharing(rows: Rows) -> float:
    """Part of the tokens of whole sequences that need not be computed if every shared prompt is computed once."""
    groups = [completions_of(row, number) for number, row in enumerate(rows)]
    tokens = sum(len(completion) for group in groups for completion in group)
    laid_out = sum(
        laid_out_tokens([len(completion) for completion in group], shared_prompt_length(group), "shared_prompt")
        for group in groups
    )
    return 1 - laid_out / tokens if tokens else 0.0


def first_rows(dataset: Any, count: int) -> list[dict[str, Any]]:
    """Up to `count` rows: of a dataset drawn evenly over all of it, of a stream its first ones."""
    if isinstance(dataset, dict):
        dataset = next(iter(dataset.values()), None)
    if dataset is None:
        return []
    if isinstance(dataset, Dataset):
        step = max(1, len(dataset) // count)
        return list(dataset.select(range(0, len(dataset), step)[:count]))
    return list(itertools.islice(dataset, min(count, ROWS_IN_HALF_PRECISION)))


def telling_rows(dataset: Any, half: bool) -> list[dict[str, Any]]:
    """Rows by which layouts are compared: the longest and the one with the longest prompt; in half precision more."""
    rows = first_rows(dataset, ROWS_IN_HALF_PRECISION) if half or not isinstance(dataset, Dataset) else []
    if isinstance(dataset, dict):
        dataset = next(iter(dataset.values()), None)
    if isinstance(dataset, Dataset) and len(dataset):
        columns = [column for column in ("length", "prompt_length") if column in dataset.column_names]
        places = {int(torch.as_tensor(dataset[column][:]).argmax()) for column in columns}
        rows += [dataset[place] for place in sorted(places)]
    return sorted(rows, key=lambda row: -max(map(len, completions_of(row))))


def prove_layout(
    model: nn.Module, choice: LayoutChoice, rows: Rows, collator: PreferenceCollator, half: torch.dtype | None
) -> LayoutChoice:
    """
    Compare the rewards of a layout with the padded ones, and fall back to the next slower layout until they agree.

    Args:
        model (`nn.Module`): The reward model, however it is wrapped; every process must come here together.
        choice (`LayoutChoice`): What is to be proved.
        rows: Tokenised rows; see [`telling_rows`].
        collator ([`PreferenceCollator`]): Lays them out.
        half (`torch.dtype`, *optional*): The half precision that the model computes in, if it cannot in float32.

    Returns:
        `LayoutChoice`: The layout that gives the right rewards, and by how much they differ.
    """
    if choice.layout == "padded" or not rows:
        return choice
    against = _window_against(model, rows)
    if against is not None:
        return LayoutChoice("padded", against)
    was_training = model.training
    model.eval()
    try:
        return _compare(model, choice, rows, collator, half)
    finally:
        model.train(was_training)


def _compare(
    model: nn.Module, choice: LayoutChoice, rows: Rows, collator: PreferenceCollator, half: torch.dtype | None
) -> LayoutChoice:
    padded = _rewards(model, rows, collator, "padded", half)
    bound = FLOAT32_BOUND * max(1.0, padded.abs().max().item())
    if half is not None:
        alone = torch.cat([_rewards(model, [row], collator, "padded", half) for row in rows])
        bound = max(HALF_BOUND * padded.std().item(), HALF_NOISE * (padded - alone).abs().max().item())
    base = base_model(unwrapped(model))
    before = use_attention(base)
    try:
        return _fastest_that_agrees(model, choice, rows, collator, half, padded, bound)
    finally:
        base.set_attn_implementation(before)


def _fastest_that_agrees(
    model: nn.Module,
    choice: LayoutChoice,
    rows: Rows,
    collator: PreferenceCollator,
    half: torch.dtype | None,
    padded: Tensor,
    bound: float,
) -> LayoutChoice:
    layout = choice.layout
    for slower in _SLOWER[choice.layout]:
        try:
            difference = (_rewards(model, rows, collator, layout, half) - padded).abs().max().item()
        except torch.OutOfMemoryError:
            raise
        # The attention's own refusal, a forward that takes no positions, or a kernel that does not run here.
        except (RuntimeError, TypeError, ValueError, ImportError) as error:
            reason = str(error).splitlines()[0]
        else:
            if difference <= bound:
                reason = f"{choice.reason}; rewards differ from the padded ones by at most {difference:.1e}"
                return LayoutChoice(layout, reason, choice.spared)
            reason = f"rewards would differ from the padded ones by {difference:.1e}, more than {bound:.1e}"
        logger.warning("batch layout: not %s: %s", layout, reason)
        layout = slower
    return LayoutChoice("padded", reason)


@torch.no_grad()
def _rewards(
    model: nn.Module, rows: Rows, collator: PreferenceCollator, layout: BatchLayout, half: torch.dtype | None
) -> Tensor:
    """Rewards of the rows, a few at a time, in the precision in which layouts are compared; on the CPU."""
    lay = PreferenceCollator(collator.pad_token_id, collator.pad_to_multiple_of, layout)
    device = next(model.parameters()).device
    found = []
    for start in range(0, len(rows), 2):
        batch = lay([_tokens_alone(row) for row in rows[start : start + 2]])
        batch = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
        cast = nullcontext() if half is None else torch.autocast(device.type, half)
        with torch.autocast(device.type, enabled=False) if half is None else cast:
            found.append(completion_rewards(model, batch).cpu())
    return torch.cat(found)


def _tokens_alone(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"completion_input_ids": completions_of(row)}


def unwrapped(model: nn.Module) -> Any:
    """The model within DeepSpeed's engine, if it is in one; FSDP2 leaves it the class that it has."""
    return getattr(model, "module", model)


def _window_against(model: nn.Module, rows: Rows) -> str | None:
    """Why a sliding window would not be tested by these rows, unless it is known to be computed exactly."""
    config = base_model(unwrapped(model)).config.get_text_config()
    window = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None)
    if window is None or (types is not None and "sliding_attention" not in types):
        return None
    longest = max(len(completion) for row in rows for completion in completions_of(row))
    if config.model_type in EXACT_WINDOWS or longest > window:
        return None
    return (
        f"a {config.model_type} has a sliding window of {window} tokens, which no pair exceeds ({longest} tokens), so "
        "that it cannot be seen to be computed rightly"
    )
