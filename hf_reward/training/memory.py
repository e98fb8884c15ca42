"""How much memory a run will need on each device, estimated without taking any of it."""

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from accelerate.utils import calculate_maximum_sizes
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForSequenceClassification, PreTrainedConfig

from hf_reward.config import ModelArguments, RewardConfig
from hf_reward.modeling.adapters import add_adapter, lora_config
from hf_reward.modeling.loading import load_config


logger = logging.getLogger(__name__)

# Numbers that an optimizer keeps for each parameter that trains; AdamW and what is not listed keep two.
_STATES = {"sgd": 0, "adafactor": 0, "lion": 1, "adagrad": 1, "rmsprop": 1, "ademamix": 3}
# DeepSpeed's stages and FSDP: what each process holds only a part of.
_SHARDED = {
    "ZeRO-1": {"optimizer"},
    "ZeRO-2": {"optimizer", "gradients"},
    "ZeRO-3": {"optimizer", "gradients", "weights"},
    "FSDP": {"optimizer", "gradients", "weights"},
}


@dataclass
class MemoryNeed:
    """
    Memory of one device, in bytes. What the libraries themselves take is not in it (on CUDA some hundred MiB).

    Attributes:
        strategy (`str`): How the run is spread, such as `"DDP"`.
        processes (`int`): Over how many devices.
        sequences, tokens (`int`): Of the batch that the activations are estimated for, the longest there is.
        weights, gradients, optimizer (`int`): What stays from step to step, or is there during one.
        activations (`int`, *optional*): What the forward pass keeps for the backward pass; not known for every model.
    """

    strategy: str
    processes: int
    sequences: int
    tokens: int
    weights: int
    gradients: int
    optimizer: int
    activations: int | None

    @property
    def total(self) -> int:
        """All of it; without accumulation a little less, since gradients come while activations go."""
        return self.weights + self.gradients + self.optimizer + (self.activations or 0)


def estimate_memory(
    args: RewardConfig, model_args: ModelArguments, longest: int, sequences: int | None = None
) -> MemoryNeed:
    """
    Estimate what a run needs on each device.

    The model is built and run on fake tensors, which have shapes and types but no memory: weights, gradients and
    optimizer are counted, and so is what autograd keeps of the forward pass.

    Args:
        args (`RewardConfig`), model_args (`ModelArguments`): The settings.
        longest (`int`): Tokens of the longest row.
        sequences (`int`, *optional*): Rows of so many tokens in one batch. Not given: two for each pair.
    """
    config = load_config(model_args.model_name_or_path, model_args.model_revision, args.trust_remote_code)
    config.num_labels = 1
    if config.pad_token_id is None:
        config.get_text_config().pad_token_id = config.pad_token_id = 0
    strategy, processes = strategy_of(args), int(args.world_size)
    sequences = 2 * int(args.per_device_train_batch_size) if sequences is None else sequences
    model = _build(config, args, model_args)
    with FakeTensorMode():
        _make_fake(model, args.device)
        trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
        parts = {
            "weights": _weight_bytes(model, model_args),
            # DDP gathers gradients in buckets beside them.
            "gradients": trained * (2 if strategy == "DDP" else 1),
            "optimizer": _optimizer_bytes(model, str(getattr(args.optim, "value", args.optim))),
        }
        gathered = calculate_maximum_sizes(model)[1][0] if "weights" in _SHARDED.get(strategy, ()) else 0
        activations = _activation_bytes(model, config, args, sequences, longest)
    for part in _SHARDED.get(strategy, ()):
        parts[part] = -(-parts[part] // processes)
    parts["weights"] += int(gathered)
    return MemoryNeed(strategy, processes, sequences, longest, **parts, activations=activations)


def strategy_of(args: RewardConfig) -> str:
    """How the settings, or the launcher's environment, spread a run."""
    plugin = getattr(args, "deepspeed_plugin", None)
    if plugin is not None:
        return f"ZeRO-{plugin.zero_stage}"
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true":
        file = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "")
        stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
        if Path(file).is_file():
            stage = json.loads(Path(file).read_text(encoding="utf-8")).get("zero_optimization", {}).get("stage", stage)
        return f"ZeRO-{stage}"
    if args.fsdp or os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        return "FSDP"
    return "DDP" if args.world_size > 1 else "one process"


def _build(config: PreTrainedConfig, args: RewardConfig, model_args: ModelArguments) -> Any:
    dtype = config.dtype or torch.float32 if model_args.dtype == "auto" else getattr(torch, model_args.dtype)
    extra = {} if model_args.attn_implementation is None else {"attn_implementation": model_args.attn_implementation}
    with init_empty_weights(include_buffers=True):
        model = AutoModelForSequenceClassification.from_config(
            config, trust_remote_code=args.trust_remote_code, dtype=dtype, **extra
        )
        peft_config = lora_config(model_args)
        return (model if peft_config is None else add_adapter(model, peft_config)).train()


def _make_fake(model: nn.Module, device: torch.device) -> None:
    """Put fake tensors of a device in the places of the empty ones; shared ones stay shared."""
    made: dict[int, torch.Tensor] = {}
    for module in model.modules():
        groups: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for tensors in groups:
            for name, tensor in tensors.items():
                if tensor is not None:
                    fake = made.setdefault(id(tensor), torch.empty(tensor.shape, dtype=tensor.dtype, device=device))
                    is_parameter = isinstance(tensor, nn.Parameter)
                    tensors[name] = nn.Parameter(fake, tensor.requires_grad) if is_parameter else fake


def _weight_bytes(model: Any, model_args: ModelArguments) -> int:
    """Quantisation packs the linear layers below the adapters, except the score head (one output)."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))
    packed = 1.0 if model_args.load_in_8bit else 0.5 if model_args.load_in_4bit else None
    if packed is None:
        return int(size)
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.out_features > 1 and not module.weight.requires_grad:
            size -= module.weight.numel() * (module.weight.element_size() - packed)
    return int(size)


def _optimizer_bytes(model: Any, name: str) -> int:
    states = next((count for word, count in _STATES.items() if word in name), 2)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return sum(p.numel() * states * (1 if "8bit" in name else p.element_size()) for p in trained)


def _activation_bytes(
    model: Any, config: PreTrainedConfig, args: RewardConfig, sequences: int, tokens: int
) -> int | None:
    """
    What autograd keeps of one forward pass. With checkpointing: the inputs of the layers, and one layer in full.

    Shape:
        The batch is (sequences, tokens).
    """
    if config.is_encoder_decoder:
        return None
    batch = {
        name: torch.ones(sequences, tokens, dtype=torch.long, device=args.device)
        for name in ("input_ids", "attention_mask")
    }
    own = {_storage(tensor) for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[_storage(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    half = torch.bfloat16 if args.bf16 else torch.float16
    try:
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast(args.device.type, half, enabled=bool(args.bf16 or args.fp16)),
        ):
            rewards = model(**batch).logits
    except (RuntimeError, TypeError, ValueError) as error:
        logger.warning("activations are not estimated: %s", str(error).splitlines()[0])
        return None
    del rewards
    size = sum(bytes_ for storage, bytes_ in kept.items() if storage not in own)
    if not args.gradient_checkpointing:
        return size
    text = config.get_text_config()
    width = 2 if args.bf16 or args.fp16 else model.dtype.itemsize
    return size // int(text.num_hidden_layers) + int(
        text.num_hidden_layers * sequences * tokens * text.hidden_size * width
    )


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
