"""A model that is split over processes: its score head stays in float32."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from hf_reward.errors import ConfigurationError
from hf_reward.modeling.adapters import base_model
from hf_reward.modeling.score_head import head_module


class Float32Linear(nn.Linear):
    """`nn.Linear` under another name, so that DeepSpeed does not send its weight in bfloat16."""


def split_head_apart(model: PreTrainedModel | PeftModel, plugin: Any) -> None:
    """
    Give the score head an FSDP2 group of its own, which keeps float32 where the rest is computed in bfloat16.

    Sums of gradients over processes are float32 too, and outputs stay as they are: accelerate's own policy would round
    the rewards to bfloat16.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]): The model, not yet wrapped.
        plugin (`accelerate.FullyShardedDataParallelPlugin`): How the rest will be wrapped.

    Raises:
        `ConfigurationError`: The weights are to be sent out by the first process, and the head has more than one row.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    policy = plugin.mixed_precision_policy
    if plugin.fsdp_version != 2 or policy is None:
        return
    head = head_module(base_model(model))
    if plugin.cpu_ram_efficient_loading and any(parameter.shape[0] > 1 for parameter in head.parameters()):
        # accelerate sends the first process's rows as if they were all of them; a head of one row has no others.
        raise ConfigurationError(
            f"`fsdp_cpu_ram_efficient_loading`: found true with `bf16` and the {type(head).__name__} of a "
            f"{type(base_model(model)).__name__}; expected false"
        )
    plugin.mixed_precision_policy = MixedPrecisionPolicy(param_dtype=policy.param_dtype, reduce_dtype=torch.float32)
    fully_shard(head, mp_policy=MixedPrecisionPolicy(param_dtype=torch.float32))


@contextmanager
def head_sent_in_float32(model: PreTrainedModel | PeftModel) -> Iterator[None]:
    """
    Keep the score head out of what DeepSpeed gathers and sums in bfloat16 under `torch_autocast`.

    DeepSpeed marks the parameters of every module whose class is exactly `nn.Linear` when its engine is made.
    """
    linears = [module for module in head_module(base_model(model)).modules() if type(module) is nn.Linear]
    for linear in linears:
        linear.__class__ = Float32Linear
    try:
        yield
    finally:
        for linear in linears:
            linear.__class__ = nn.Linear
