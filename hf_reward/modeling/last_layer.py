"""The feed-forward part of the last layer: computed at the tokens where rewards are read, and nowhere else."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer


@contextmanager
def last_feed_forward_only_at(places: Tensor, backbone: nn.Module) -> Iterator[None]:
    """
    Let the feed-forward part of the last layer see these tokens only, and give zeros at all others.

    Nothing attends to what the last layer gives, so rewards and gradients stay what they are, and most of one layer is
    spared. A layer that is computed a second time for its gradients, and one without a module named `mlp`, stay whole.

    Args:
        places (`torch.Tensor`): Columns of the one row at which rewards are read, none of them twice; (n,).
        backbone (`nn.Module`): The model below the score head.
    """
    feed_forward = _last_feed_forward(backbone)
    if feed_forward is None:
        yield
        return
    lengths: list[int] = []

    def narrow(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden, *others = args
        lengths.append(hidden.shape[1])
        return hidden.index_select(1, places), *others

    def widen(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        # A mixture of experts may give what its router found, too.
        hidden, *others = output if isinstance(output, tuple) else (output,)
        whole = hidden.new_zeros(1, lengths.pop(), hidden.shape[2]).index_copy(1, places, hidden)
        return (whole, *others) if isinstance(output, tuple) else whole

    hooks = [feed_forward.register_forward_pre_hook(narrow), feed_forward.register_forward_hook(widen)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _last_feed_forward(backbone: nn.Module) -> nn.Module | None:
    layers = [module for module in backbone.modules() if isinstance(module, GradientCheckpointingLayer)]
    found = getattr(layers[-1], "mlp", None) if layers else None
    return found if isinstance(found, nn.Module) and not _computed_twice(backbone, layers[-1]) else None


def _computed_twice(backbone: nn.Module, layer: nn.Module) -> bool:
    """Whether the layer is run again in the backward pass, when the hooks around its forward are gone."""
    if not layer.training:
        return False
    # The second is what FSDP's own checkpointing puts around layers.
    return bool(layer.gradient_checkpointing) or any(
        hasattr(module, "_checkpoint_wrapped_module") for module in backbone.modules()
    )
