"""Whether the disk has room for what a run will write, looked at before it starts."""

import logging
import shutil
from pathlib import Path

from peft import PeftModel
from torch import nn

from hf_reward.config import RewardConfig
from hf_reward.files import nearest_existing


logger = logging.getLogger(__name__)


def free_space(folder: str | Path) -> int:
    """Free bytes where a folder is, or will be made."""
    return shutil.disk_usage(nearest_existing(folder)).free


def checkpoint_bytes(model: nn.Module, args: RewardConfig) -> int:
    """
    About how many bytes one checkpoint takes: what is saved of the weights, and two float32 numbers for each one that
    trains, as AdamW keeps them.
    """
    numbers = {parameter: getattr(parameter, "ds_numel", parameter.numel()) for parameter in model.parameters()}
    trained = {parameter: number for parameter, number in numbers.items() if parameter.requires_grad}
    saved = trained if isinstance(model, PeftModel) else numbers
    weights = sum(number * parameter.element_size() for parameter, number in saved.items())
    states = 0 if args.save_only_model or args.save_strategy == "no" else 8 * sum(trained.values())
    return int(weights + states)


def warn_of_a_full_disk(model: nn.Module, args: RewardConfig) -> None:
    """Say before the first step that not even one checkpoint will fit."""
    free, needed = free_space(str(args.output_dir)), checkpoint_bytes(model, args)
    if free < needed:
        logger.warning(
            "`output_dir` %s: %.1f MiB are free there, and a checkpoint takes about %.1f MiB; make room before it is "
            "written, or choose another folder",
            *(args.output_dir, free / 2**20, needed / 2**20),
        )
