"""The mode that runs, in one line, and that it is the mode that was asked for."""

import os

from accelerate.utils import DistributedType

from hf_reward.errors import ConfigurationError
from hf_reward.training.trainer import RewardTrainer


def describe_mode(trainer: RewardTrainer) -> str:
    """
    How a trainer really runs.

    Returns:
        `str`: Distribution, number of processes, backend, device and dtype, such as
        `"mode=DDP world=2 backend=gloo device=cpu dtype=float32"`.
    """
    accelerator = trainer.accelerator
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        mode = f"DeepSpeed-ZeRO{accelerator.state.deepspeed_plugin.zero_stage}"
    elif accelerator.distributed_type == DistributedType.FSDP:
        mode = f"FSDP{accelerator.state.fsdp_plugin.fsdp_version}"
    else:
        mode = "single" if accelerator.distributed_type == DistributedType.NO else "DDP"
    backend = f" backend={trainer.args.distributed_state.backend}" if accelerator.num_processes > 1 else ""
    dtype = {"bf16": "bfloat16 autocast", "fp16": "float16 autocast"}.get(accelerator.mixed_precision)
    dtype = dtype or str(trainer.model.dtype).removeprefix("torch.")
    return f"mode={mode} world={accelerator.num_processes}{backend} device={trainer.args.device.type} dtype={dtype}"


def check_world_size(trainer: RewardTrainer) -> None:
    """
    Refuse to run with other processes than the launcher started.

    Raises:
        `ConfigurationError`: The launcher's number of processes is not the trainer's.
    """
    asked = int(os.environ.get("WORLD_SIZE", "1"))
    running = trainer.accelerator.num_processes
    if asked != running:
        raise ConfigurationError(
            f"{asked} processes were started, but the trainer runs as {running}. Start it with "
            "`torchrun --nproc_per_node N -m hf_reward.cli.train RECIPE.yaml`."
        )
