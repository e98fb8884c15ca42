"""The score head: how it starts, that it computes in float32, and the one rule for where a reward is read."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutputWithPast

from hf_reward.data.layouts import GroupSpans
from hf_reward.errors import ConfigurationError
from hf_reward.modeling.attention_plan import AttentionPlan
from hf_reward.modeling.last_layer import last_layer_only_for_rewards
from hf_reward.modeling.shared_prompt import UnsupportedAttentionError, rows_without_padding


# Where a bound module keeps the forward that it had on its instance (`None`: that of its class).
_OWN = "_forward_before_hf_reward"

# What of a batch goes to the model, beside the positions of the rewards.
MODEL_INPUTS = ("input_ids", "attention_mask", "position_ids", "token_type_ids", "group_spans")

# What models call their head: `score` in decoders, the others in encoders.
HEAD_NAMES = ("score", "classifier", "classification_head")


def last_token_positions(attention_mask: Tensor) -> Tensor:
    """
    Places of the last real token of every row, in the flattened (rows * L) token grid.

    Shape:
        `attention_mask`: (S, L), 1 for real tokens on either side of the padding; result: (S,).

    Examples:

    >>> import torch
    >>> last_token_positions(torch.tensor([[1, 1, 0], [0, 1, 1]])).tolist()
    [1, 5]
    """
    rows, length = attention_mask.shape
    columns = torch.arange(length, device=attention_mask.device)
    last = (columns * (attention_mask != 0)).argmax(dim=-1)
    return torch.arange(rows, device=attention_mask.device) * length + last


def reads_last_token(model: nn.Module) -> bool:
    """Whether the model is a decoder whose reward is read at one token (a head named `score`), not an encoder."""
    return hasattr(model, "score")


def head_module(model: nn.Module) -> nn.Module:
    """The module that turns hidden states into the reward: `score` in decoders, the classifier in encoders."""
    for name in HEAD_NAMES:
        module = getattr(model, name, None)
        if isinstance(module, nn.Module):
            return module
    raise ConfigurationError(
        f"{type(model).__name__} has no score head that is known here (expected a module named `score`, `classifier` "
        "or `classification_head`). Pass a sequence classification model with one output."
    )


def keep_head_in_float32(model: nn.Module) -> None:
    """Store the head of a half-precision model in float32, so that small updates of it are not rounded away."""
    for parameter in head_module(model).parameters():
        parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))


def init_score_head(head: nn.Linear, seed: int) -> None:
    """
    Draw a fresh score head from N(0, 1 / (hidden_size + 1)), standard deviation 1 / sqrt(hidden_size + 1).

    The second argument of N is read as a variance: rewards of normalised hidden states then start with a standard
    deviation near 1, where the loss is neither flat nor saturated. The draw depends on `seed` alone, not on the
    process, and it reaches a head that DeepSpeed ZeRO-3 has already partitioned.

    References:
        Stiennon et al. (2020), arXiv:2009.01325, for the initialisation.
    """
    generator = torch.Generator().manual_seed(seed)
    std = 1 / math.sqrt(head.in_features + 1)
    with _gathered(head):
        weight = torch.empty(head.weight.shape, dtype=torch.float32).normal_(0.0, std, generator=generator)
        with torch.no_grad():
            head.weight.copy_(weight)
            if head.bias is not None:
                head.bias.zero_()


@contextmanager
def _gathered(module: nn.Module) -> Iterator[None]:
    """Hold the whole parameters of a module that ZeRO-3 may have partitioned."""
    partitioned = [parameter for parameter in module.parameters(recurse=False) if hasattr(parameter, "ds_id")]
    if not partitioned:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(partitioned, modifier_rank=0):
        yield


def bind_reward_forward(model: PreTrainedModel) -> None:
    """
    Give one model instance the forward of a reward model; its class, its weights and what it saves stay untouched.

    Called with `reward_positions`, the model returns the rewards of those tokens, (S,) in float32 or better, as
    `logits`; called without, it does what it always did. Models that have a `score` module (decoders) apply it to the
    hidden states at these positions only. The others (encoders) keep their own pooling and head, and the position
    tells the row. The head itself computes in float32, inside its own call, so that every wrapper sees it.

    With `group_spans`, the one row of `input_ids` holds groups without padding, and the positions are the ends of
    their completions, since nothing else is computed in the last layer; see `modeling/shared_prompt.py`.
    """
    if _OWN in model.__dict__:
        return
    linears = [module for module in head_module(model).modules() if isinstance(module, nn.Linear)]
    original = getattr(model, _place_of_forward(model))
    at_last_token = reads_last_token(model)

    def forward(
        self: PreTrainedModel,
        *args: Any,
        reward_positions: Tensor | None = None,
        group_spans: GroupSpans | None = None,
        **kwargs: Any,
    ) -> Any:
        if reward_positions is None:
            return original(*args, **kwargs)
        kwargs = {name: value for name, value in kwargs.items() if value is not None}
        if at_last_token:
            hidden = _hidden_states(self, kwargs, group_spans)
            # Looked up here, because an adapter may have put a copy of the head in its place since.
            rewards = head_module(self)(hidden.flatten(0, 1)[reward_positions.to(hidden.device)])
        else:
            logits = original(**kwargs).logits
            rewards = logits[(reward_positions // kwargs["input_ids"].shape[1]).to(logits.device)]
        return SequenceClassifierOutputWithPast(logits=rewards.squeeze(-1))

    forwards: list[tuple[nn.Module, Callable[..., Any]]] = [(model, forward)]
    forwards += [(linear, _linear_in_float32) for linear in linears]
    for module, bound in forwards:
        place = _place_of_forward(module)
        module.__dict__[_OWN] = module.__dict__.get(place)
        module.__dict__[place] = MethodType(bound, module)


def _hidden_states(model: PreTrainedModel, inputs: dict[str, Any], spans: GroupSpans | None) -> Tensor:
    """What the backbone makes of the token rows; every layer must attend within the groups that they hold, if any."""
    backbone = getattr(model, model.base_model_prefix)
    if spans is None:
        hidden: Tensor = backbone(**inputs, use_cache=False).last_hidden_state
        return hidden
    inputs = inputs | rows_without_padding(spans, inputs["input_ids"].device)
    plan: AttentionPlan = inputs["attention_plan"]
    with last_layer_only_for_rewards(plan, backbone):
        hidden = backbone(**inputs, use_cache=False).last_hidden_state
    calls, layers = plan.calls, model.config.get_text_config().num_hidden_layers
    if calls != layers:
        raise UnsupportedAttentionError(
            f"{calls} of the {layers} layers of {type(model).__name__} use transformers' attention interface, so rows "
            "without padding would be computed wrongly; use `batch_layout: padded`"
        )
    return hidden


def completion_rewards(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    """
    Score all completions of a batch in one forward pass.

    Args:
        model (`nn.Module`): A model whose forward takes `reward_positions`, however it is wrapped.
        batch (`dict`): A batch of [`PreferenceCollator`].

    Returns:
        `torch.Tensor`: Rewards group after group, best completion first, in float32 or better; (S,).
    """
    tokens = {name: batch[name] for name in MODEL_INPUTS if name in batch}
    rewards: Tensor = model(**tokens, reward_positions=batch["reward_positions"]).logits
    return rewards.to(torch.promote_types(rewards.dtype, torch.float32))


def release_reward_forward(model: nn.Module) -> dict[nn.Module, Any]:
    """
    Give a model that went through `bind_reward_forward` its own forward back.

    A float32 head on a half-precision backbone keeps its own call, without which it could not take the hidden states.

    Returns what was taken off, module by module, for `restore_reward_forward`.
    """
    taken = {}
    dtype = next(model.parameters()).dtype
    for module in [module for module in model.modules() if _OWN in module.__dict__]:
        if isinstance(module, nn.Linear) and module.weight.dtype != dtype:
            continue
        place = _place_of_forward(module)
        taken[module] = module.__dict__.pop(place)
        own = module.__dict__.pop(_OWN)
        if own is not None:
            module.__dict__[place] = own
    return taken


def restore_reward_forward(taken: dict[nn.Module, Any]) -> None:
    """Put back what `release_reward_forward` took off (with any autocast wrapper that stood around it)."""
    for module, forward in taken.items():
        place = _place_of_forward(module)
        module.__dict__[_OWN] = module.__dict__.get(place)
        module.__dict__[place] = forward


def _place_of_forward(module: nn.Module) -> str:
    """
    The attribute that holds a module's forward: where a `device_map` splits the model, accelerate has put a forward of
    its own in front, which brings weights and inputs to one device and then calls `_old_forward`.
    """
    return "_old_forward" if hasattr(module, "_hf_hook") else "forward"


def _linear_in_float32(self: nn.Linear, hidden: Tensor) -> Tensor:
    """`nn.Linear.forward` with autocast off and at least float32 arithmetic, for any stored dtype."""
    dtype = torch.promote_types(torch.promote_types(hidden.dtype, self.weight.dtype), torch.float32)
    with torch.autocast(device_type=hidden.device.type, enabled=False):
        bias = None if self.bias is None else self.bias.to(dtype)
        return F.linear(hidden.to(dtype), self.weight.to(dtype), bias)
