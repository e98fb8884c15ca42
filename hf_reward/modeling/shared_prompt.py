"""
Attention over rows without padding, [prompt | completion 1 | ... | completion k] group after group.

Every completion sees its prompt and itself, as if it stood alone behind it, so a prompt is computed once however many
completions it has. Whole sequences one after another are the same thing with prompts of no tokens. No mask over the
whole row is ever made.
"""

import functools
import importlib.util
import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from hf_reward.data.layouts import GroupSpans
from hf_reward.modeling.attention_plan import AttentionPlan


# The name under which transformers knows the attention function below.
ATTENTION = "hf_reward"
# Attention implementations of transformers in whose place it may stand; another one was asked for by the user.
REPLACES = ("sdpa", "flash_attention_2", "flash_attention_3", "flash_attention_4", ATTENTION)
# What models hand to an attention function that changes nothing here.
_HARMLESS = frozenset(
    (
        *("position_ids", "position_embeddings", "cache_position", "cache", "past_key_values", "use_cache"),
        *("output_attentions", "output_hidden_states", "return_dict", "num_items_in_batch", "layer_idx"),
    )
)


class UnsupportedAttentionError(RuntimeError):
    """A model asks for something that attention over rows without padding does not do."""


def rows_without_padding(spans: GroupSpans, device: torch.device) -> dict[str, Any]:
    """
    What a backbone is called with, so that its layers attend within the groups of a row.

    A mask with four dimensions is handed through by transformers as it is; without it, a mask over the whole row would
    be made.
    """
    return {"attention_mask": torch.zeros(1, 1, 1, 1, device=device), "attention_plan": AttentionPlan(spans, device)}


def use_attention(model: PreTrainedModel) -> str:
    """Let the layers of a model call the attention function of this module; returns the name of the one before."""
    before = str(model.config._attn_implementation)
    if before != ATTENTION:
        model.set_attn_implementation(ATTENTION)
    return before


@torch.compiler.disable  # type: ignore[untyped-decorator]
def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    attention_plan: AttentionPlan | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """
    Attention in the form that transformers calls it; without a plan, its own `sdpa`.

    Shape:
        `query`: (1, heads, T, D), `key` and `value`: (1, key heads, T, D); result: (1, T, heads, D).

    Raises:
        `UnsupportedAttentionError`: Something is asked for that is not known here (soft caps, sinks, biases, ...).
    """
    if attention_plan is None:
        return _plain(module, query, key, value, attention_mask, scaling, dropout, is_causal, kwargs)
    _refuse_unknown(module, query, dropout, is_causal, kwargs)
    attention_plan.calls += 1
    if query.device.type != "cuda":
        return _by_segments(query, key, value, attention_plan, scaling, sliding_window), None
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else query.dtype
    fits = dtype in (torch.bfloat16, torch.float16) and value.shape[-1] == query.shape[-1] <= 256
    if fits and variable_length_kernel() is not None:
        q, k, v = (tensor.to(dtype) for tensor in (query, key, value))
        return _by_varlen(q, k, v, attention_plan, scaling, sliding_window), None
    return _by_flex(module, query, key, value, attention_plan, scaling, sliding_window), None


AttentionInterface.register(ATTENTION, attention_forward)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def _plain(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float | None,
    dropout: float,
    is_causal: bool | None,
    kwargs: dict[str, Any],
) -> tuple[Tensor, None]:
    output, _ = sdpa_attention_forward(
        module, query, key, value, mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **kwargs
    )
    return output, None


def _refuse_unknown(
    module: nn.Module, query: Tensor, dropout: float, is_causal: bool | None, kwargs: dict[str, Any]
) -> None:
    unknown = [name for name, value in kwargs.items() if value is not None and name not in _HARMLESS]
    if is_causal is False or getattr(module, "is_causal", True) is False:
        unknown.append("is_causal=False")
    if dropout:
        unknown.append(f"dropout={dropout}")
    if query.shape[0] != 1:
        unknown.append(f"{query.shape[0]} rows")
    if unknown:
        raise UnsupportedAttentionError(
            f"{type(module).__name__} asks for {', '.join(unknown)}, which attention over rows without padding does "
            "not do; use `batch_layout: padded`"
        )


def _by_segments(
    query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, scaling: float | None, window: int | None
) -> Tensor:
    """
    One call for every prompt with its first completion, and one for every other completion.

    In at least float32: on a CPU its kernel is faster than the one for bfloat16, above all backwards.
    """
    dtype = torch.promote_types(query.dtype, torch.float32)
    q, k, v = (tensor.to(dtype) for tensor in (query, key, value))
    repeats = q.shape[1] // k.shape[1]
    if repeats > 1:
        k, v = (tensor.repeat_interleave(repeats, dim=1) for tensor in (k, v))
    if plan.only_ends:
        return _at_ends(q, k, v, plan, scaling, window).to(query.dtype)
    # Cut once in each way: slices would each have a backward pass over the whole row.
    queries = iter(q.split(plan.heads_and_tails, dim=2))
    wholes = iter(zip(k.split(plan.heads_and_tails, dim=2), v.split(plan.heads_and_tails, dim=2), strict=True))
    pieces = iter(zip(k.split(plan.pieces, dim=2), v.split(plan.pieces, dim=2), strict=True))
    outputs = []
    with torch.autocast(query.device.type, enabled=False):
        for _, completions in plan.spans:
            (prompt_k, prompt_v), _first = next(pieces), next(pieces)
            outputs.append(_attend(next(queries), *next(wholes), plan, scaling, window))
            for length in completions[1:]:
                part, _whole, (own_k, own_v) = next(queries), next(wholes), next(pieces)
                if length:
                    keys, values = (torch.cat(both, dim=2) for both in ((prompt_k, own_k), (prompt_v, own_v)))
                    outputs.append(_attend(part, keys, values, plan, scaling, window))
    return torch.cat(outputs, dim=1).to(query.dtype)


def _at_ends(
    query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, scaling: float | None, window: int | None
) -> Tensor:
    """One call for every token at which a completion ends; zeros for all others."""
    queries = iter(query.index_select(2, plan.ends).split(1, dim=2))
    pieces = iter(zip(key.split(plan.pieces, dim=2), value.split(plan.pieces, dim=2), strict=True))
    outputs = []
    with torch.autocast(query.device.type, enabled=False):
        for _, completions in plan.spans:
            prompt, ends_with_prompt = next(pieces), False
            for length in completions:
                own = next(pieces)
                # Completions that end with their prompt end at one token.
                if length or not ends_with_prompt:
                    keys, values = (torch.cat(both, dim=2) for both in zip(prompt, own, strict=True))
                    outputs.append(_attend(next(queries), keys, values, plan, scaling, window))
                ends_with_prompt |= not length
    found = torch.cat(outputs, dim=1)
    return found.new_zeros(1, query.shape[2], *found.shape[2:]).index_copy(1, plan.ends, found)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, scaling: float | None, window: int | None
) -> Tensor:
    """Attention of the last tokens of a sequence to all of it; (1, heads, n, D) to (1, n, heads, D)."""
    mask = plan.mask(query.shape[2], key.shape[2], window)
    if mask is not None:
        mask = mask.to(query.dtype)
    output = F.scaled_dot_product_attention(query, key, value, mask, is_causal=mask is None, scale=scaling)
    return output.transpose(1, 2)


@functools.cache
def variable_length_kernel() -> str | None:
    """Which variable-length flash kernel is there: torch's own with windows and grouped heads, or flash-attn's."""
    try:
        from torch.nn.attention import varlen
    except ImportError:  # before torch 2.10
        own: set[str] = set()
    else:
        own = set(inspect.signature(varlen.varlen_attn).parameters)
    if {"window_size", "enable_gqa", "scale"} <= own:
        return "torch"
    return "flash_attn" if importlib.util.find_spec("flash_attn") else None


def _by_varlen(
    query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, scaling: float | None, window: int | None
) -> Tensor:
    """One call of a flash kernel whose causal mask is aligned to the ends of queries and keys."""
    sizes = plan.varlen
    (queries, keys), (longest_query, longest_key) = sizes["cu_seqlens"], sizes["longest"]
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    k, v = (tensor.index_select(0, sizes["key_index"]) for tensor in (k, v))
    band = (-1 if window is None else window - 1, 0)
    output: Any
    if variable_length_kernel() == "torch":
        from torch.nn.attention.varlen import varlen_attn

        output = varlen_attn(
            *(q, k, v, queries, keys, longest_query, longest_key),
            scale=scaling,
            window_size=band,
            enable_gqa=q.shape[1] != k.shape[1],
        )
    else:
        from flash_attn import flash_attn_varlen_func

        output = flash_attn_varlen_func(
            q, k, v, queries, keys, longest_query, longest_key, softmax_scale=scaling, causal=True, window_size=band
        )
    packed: Tensor = output
    return packed.unsqueeze(0)


def _by_flex(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan: AttentionPlan,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    """Flex attention: for number formats and head sizes that the flash kernels do not take."""
    from transformers.integrations.flex_attention import flex_attention_forward

    output: Tensor = flex_attention_forward(module, query, key, value, plan.block_mask(window), scaling=scaling)[0]
    return output
