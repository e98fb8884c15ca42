"""The mode that runs, in one line, and that it is the mode that was asked for."""

import logging
import os
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.nn.parallel import DistributedDataParallel
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_reward.config import RewardConfig
from hf_reward.config.processes import uses_deepspeed
from hf_reward.errors import ConfigurationError
from hf_reward.training.trainer import RewardTrainer


logger = logging.getLogger(__name__)

_COMMAND = "hf_reward-train RECIPE.yaml --accelerate_config cpu|ddp|zero1|zero2|zero3|fsdp2 --num_processes N"


@dataclass(frozen=True)
class Mode:
    """
    How the processes of a run share the work.

    Attributes:
        distribution (`str`): `"single"`, `"DDP"`, `"DeepSpeed-ZeRO1"` to `3`, `"FSDP1"` or `"FSDP2"`.
        processes (`int`): Their number, on all machines.
        precision (`str`): `"no"`, `"bf16"` or `"fp16"` mixed precision.
    """

    distribution: str
    processes: int
    precision: str


def asked_mode(args: RewardConfig) -> Mode:
    """
    What the settings and the launcher's environment ask for.

    Raises:
        `ConfigurationError`: The launcher was asked for several processes and started one.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ and "ACCELERATE_MIXED_PRECISION" in os.environ:
        # What `accelerate launch --cpu --num_processes 2` and `distributed_type: MULTI_CPU` leave behind.
        raise ConfigurationError(
            f"`accelerate launch` was asked for several processes and started one. Start the run by `{_COMMAND}`."
        )
    precision = "fp16" if args.fp16 else "bf16" if args.bf16 else "no"
    if uses_deepspeed(args):
        plugin: Any = args.deepspeed_plugin
        return Mode(f"DeepSpeed-ZeRO{plugin.zero_stage}", processes, precision)
    if args.fsdp or os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        given: Any = args.fsdp_plugin_args
        version = given["fsdp_version"] if given else os.environ.get("FSDP_VERSION", "1")
        return Mode(f"FSDP{version}", processes, precision)
    return Mode("DDP" if processes > 1 else "single", processes, precision)


def running_mode(trainer: RewardTrainer) -> Mode:
    """What the wrapped model of a trainer that is about to make its first step shows."""
    # `torch.compile` wraps once more.
    wrapped: Any = getattr(trainer.model_wrapped, "_orig_mod", trainer.model_wrapped)
    accelerator = trainer.accelerator
    precision = str(accelerator.mixed_precision)
    if hasattr(wrapped, "zero_optimization_stage"):
        stage = wrapped.zero_optimization_stage()
        whole = [p for p in trainer.model.parameters() if not hasattr(p, "ds_id")]
        distribution = f"DeepSpeed-ZeRO{stage}" if stage < 3 or not whole else "DeepSpeed with whole weights"
        if wrapped.torch_autocast_enabled():
            precision = "fp16" if wrapped.torch_autocast_dtype() == torch.float16 else "bf16"
        elif wrapped.bfloat16_enabled() or wrapped.fp16_enabled():
            # A ZeRO-3 model that was made before its engine may have kept other weights than the engine thinks.
            precision = {torch.float16: "fp16", torch.bfloat16: "bf16"}.get(trainer.model.dtype, "no")
        else:
            precision = "no"
    elif isinstance(wrapped, FSDPModule):
        distribution = "FSDP2"
    elif isinstance(wrapped, FullyShardedDataParallel):
        distribution = "FSDP1"
    elif isinstance(wrapped, DistributedDataParallel) and accelerator.num_processes > 1:
        distribution = "DDP"
    else:
        distribution = "single"
    return Mode(distribution, accelerator.num_processes, precision)


def describe_mode(trainer: RewardTrainer) -> str:
    """
    How a trainer really runs.

    Returns:
        `str`: Distribution, number of processes, backend, device and dtype, such as
        `"mode=DDP world=2 backend=gloo device=cpu dtype=float32"`.
    """
    mode = running_mode(trainer)
    backend = f" backend={torch.distributed.get_backend()}" if mode.processes > 1 else ""
    stored = str(trainer.model.dtype).removeprefix("torch.")
    computed = {"bf16": "bfloat16", "fp16": "float16"}.get(mode.precision, stored)
    dtype = stored if computed == stored else f"{computed} autocast"
    return f"mode={mode.distribution} world={mode.processes}{backend} device={trainer.args.device.type} dtype={dtype}"


def check_mode(trainer: RewardTrainer) -> None:
    """
    Compare the mode that runs with the one that was asked for.

    Raises:
        `ConfigurationError`: Processes, distribution, precision or backend differ.
    """
    asked, running = asked_mode(trainer.args), running_mode(trainer)
    backend = trainer.args.ddp_backend
    if running == asked and (backend is None or running.processes == 1 or backend == torch.distributed.get_backend()):
        return
    raise ConfigurationError(
        f"The mode that runs is not the one that was asked for: asked for {asked.distribution} with {asked.processes} "
        f"process(es), mixed precision {asked.precision}, backend {backend or 'any'}; running: "
        f"{describe_mode(trainer)}. Start the run by `{_COMMAND}`; FSDP needs GPUs."
    )


def check_world_size(trainer: RewardTrainer) -> None:
    """
    Refuse to run with other processes than the launcher started.

    Raises:
        `ConfigurationError`: The launcher's number of processes is not the trainer's.
    """
    asked, running = asked_mode(trainer.args).processes, trainer.accelerator.num_processes
    if asked != running:
        raise ConfigurationError(
            f"{asked} processes were started, but the trainer runs as {running}. Start the run by `{_COMMAND}`, or by "
            "`torchrun --nproc_per_node N -m hf_reward.cli.train RECIPE.yaml`."
        )


class ModeCheck(TrainerCallback):
    """Before the first step, when the model is wrapped: compare the mode with the one asked for, and say it."""

    def __init__(self, trainer: RewardTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Compare, and log one line."""
        check_mode(self.trainer)
        self.trainer.mode = describe_mode(self.trainer)
        logger.info(self.trainer.mode)
