"""The processes of a run find each other before anything else happens: process group, time-out, DeepSpeed."""

import contextlib
import logging
import os
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hf_reward.errors import ConfigurationError


if TYPE_CHECKING:
    from hf_reward.config.reward_config import RewardConfig

logger = logging.getLogger(__name__)

# Seconds after which a lock in a shared folder is not another machine's build any more.
_LONGEST_BUILD = 600


def uses_deepspeed(args: "RewardConfig") -> bool:
    """Whether DeepSpeed was asked for, in the settings or by the launcher."""
    return bool(args.deepspeed) or os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true"


def connect(args: "RewardConfig") -> None:
    """
    Start the process group of a launched run on CPU, with `ddp_timeout`, and DeepSpeed's communication on it.

    On accelerators `TrainingArguments` does it; on a CPU it leaves the time-out out, and DeepSpeed unconnected, so
    that ZeRO-3 would take itself for one process when the model is made.

    Raises:
        `ConfigurationError`: A lock that nobody holds would let DeepSpeed wait for ever.
    """
    deepspeed = uses_deepspeed(args)
    on_cpu = args.use_cpu or not torch.accelerator.is_available()
    if deepspeed:
        if on_cpu:
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        check_extension_locks()
    if not on_cpu or "LOCAL_RANK" not in os.environ:
        return
    args.use_cpu = True
    timeout = timedelta(seconds=args.ddp_timeout)
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group(args.ddp_backend or "gloo", timeout=timeout)
    if deepspeed:
        from deepspeed import comm

        if not comm.is_initialized():
            comm.init_distributed(torch.distributed.get_backend(), auto_mpi_discovery=False, timeout=timeout)


def autocast_in_deepspeed(args: "RewardConfig") -> None:
    """
    Let DeepSpeed compute in bfloat16 by torch's autocast, with float32 weights, unless a file of the user says how.

    Its own bf16 engine would store every weight in bfloat16, the score head's too. The empty `bf16` entry keeps
    accelerate from turning that engine on.
    """
    if not args.bf16 or not uses_deepspeed(args):
        return
    from accelerate.utils.deepspeed import HfDeepSpeedConfig

    file: Any = args.deepspeed or os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE")
    written = HfDeepSpeedConfig(file).config if file else {}
    if "torch_autocast" in written:
        return
    if written.get("bf16"):
        logger.warning(
            "deepspeed: the bf16 engine of the configuration file stores the score head in bfloat16 too; leave `bf16` "
            "out of the file to keep it, and all weights, in float32 and to compute in bfloat16 by autocast"
        )
        return
    plugin: Any = args.deepspeed_plugin
    plugin.deepspeed_config |= {"bf16": {}, "torch_autocast": {"enabled": True, "dtype": "bfloat16"}}
    if not args.deepspeed:
        plugin.set_deepspeed_weakref()


def check_extension_locks() -> None:
    """
    Look for locks of torch's extension builds that no process holds.

    A build that was killed leaves its lock file behind, and the next one waits for it without end or message.

    Raises:
        `ConfigurationError`: There is one, and it is too old to be another machine's build; the message names it.
    """
    from torch.utils.cpp_extension import get_default_build_root

    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    for lock in sorted({*root.glob("*/lock"), *root.glob("*/*/lock")}):
        if not Path("/proc/self/fd").is_dir() or not lock.exists() or _is_open_here(lock):
            continue
        advice = f"no process on this machine holds {lock}, which a build of an extension left behind"
        if time.time() - lock.stat().st_mtime > _LONGEST_BUILD:
            raise ConfigurationError(f"DeepSpeed would wait for ever: {advice}. Delete this file and start again.")
        logger.warning(
            "deepspeed: %s; unless another machine is building, delete it, or the run waits for ever", advice
        )


def _is_open_here(path: Path) -> bool:
    """Whether a process on this machine has the file open, as far as it can be seen."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if os.readlink(link) == str(path.resolve()):
                return True
    return False
