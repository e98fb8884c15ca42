"""What the last layer computes for rewards alone: at the tokens where they are read, and nowhere else."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from hf_reward.modeling.attention_plan import AttentionPlan


# Modules of a layer that take token by token, and whose results go on to nothing but the reward of the same token:
# queries, what follows the attention, and the feed-forward part. Keys and values are read by later tokens.
ONLY_FOR_REWARDS = ("q_proj", "o_proj", "mlp")


@contextmanager
def last_layer_only_for_rewards(plan: AttentionPlan, backbone: nn.Module) -> Iterator[None]:
    """
    Let the last layer compute all but keys and values at the ends of completions only, and give zeros elsewhere.

    Nothing attends to what the last layer gives, so rewards and gradients stay what they are, and most of one layer is
    spared. A layer that is computed a second time for its gradients stays whole, and so do modules of other names than
    `ONLY_FOR_REWARDS`.

    Args:
        plan (`AttentionPlan`): Where the completions of the one row end.
        backbone (`nn.Module`): The model below the score head.
    """
    layers = [module for module in backbone.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers or _computed_twice(backbone, layers[-1]):
        yield
        return
    with ExitStack() as hooks:
        hooks.enter_context(_attends_at_ends_only(plan, layers[-1]))
        for name, module in layers[-1].named_modules():
            if name.rpartition(".")[2] in ONLY_FOR_REWARDS:
                hooks.enter_context(_only_at(plan.ends, module))
        yield


@contextmanager
def _attends_at_ends_only(plan: AttentionPlan, layer: nn.Module) -> Iterator[None]:
    def begin(_layer: nn.Module, _args: tuple[Any, ...]) -> None:
        plan.only_ends = True

    hook = layer.register_forward_pre_hook(begin)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def _only_at(places: Tensor, module: nn.Module) -> Iterator[None]:
    """Let a module see the tokens at these places only, and give zeros at all others, if it is called with a row."""
    lengths: list[int] = []

    def narrow(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not args or args[0].dim() != 3:
            return None
        hidden, *others = args
        lengths.append(hidden.shape[1])
        return hidden.index_select(1, places), *others

    def widen(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        if not lengths:
            return None
        # A mixture of experts may give what its router found, too.
        hidden, *others = output if isinstance(output, tuple) else (output,)
        whole = hidden.new_zeros(1, lengths.pop(), hidden.shape[2]).index_copy(1, places, hidden)
        return (whole, *others) if isinstance(output, tuple) else whole

    hooks = module.register_forward_pre_hook(narrow), module.register_forward_hook(widen)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _computed_twice(backbone: nn.Module, layer: nn.Module) -> bool:
    """Whether the layer is run again in the backward pass, when the hooks around its forward are gone."""
    if not layer.training:
        return False
    # The second is what FSDP's own checkpointing puts around layers.
    return bool(layer.gradient_checkpointing) or any(
        hasattr(module, "_checkpoint_wrapped_module") for module in backbone.modules()
    )
