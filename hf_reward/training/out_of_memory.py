"""When memory is not enough: an error that says what can be turned."""

import contextlib
from collections.abc import Iterator

import torch
from accelerate.utils.memory import should_reduce_batch_size

from hf_reward.config import RewardConfig
from hf_reward.errors import RunError


# What `auto_find_batch_size` ends with, and an allocator's words that accelerate does not know.
_MORE_WORDS = ("No executable batch size found", "DefaultCPUAllocator: not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, of a device or of the machine, was not enough."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and (
        should_reduce_batch_size(error) or any(words in str(error) for words in _MORE_WORDS)
    )


@contextlib.contextmanager
def advise_when_out_of_memory(args: RewardConfig, use_peft: bool = False) -> Iterator[None]:
    """
    Turn an out-of-memory error into one that says what to do.

    Raises:
        `RunError`: Memory was not enough.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, RunError) or not is_out_of_memory(error):
            raise
        raise RunError(
            f"Out of memory ({str(error).splitlines()[0][:200] if str(error) else 'MemoryError'}). What helps, the "
            f"cheapest first: {'; '.join(_advice(args, use_peft))}. `--dry_run` estimates what a run needs."
        ) from error


def _advice(args: RewardConfig, use_peft: bool) -> list[str]:
    """What this run has not done yet."""
    pairs, steps = args.per_device_train_batch_size, args.gradient_accumulation_steps
    advice = []
    if pairs > 1:
        advice.append(
            f"`per_device_train_batch_size: {pairs // 2}` with `gradient_accumulation_steps: {steps * 2}`, which "
            "trains the same"
        )
    if not args.gradient_checkpointing:
        advice.append("`gradient_checkpointing: true`")
    advice.append("a token budget for batches (`max_tokens_per_batch`), or a lower `max_length`")
    if not args.bf16:
        advice.append("`bf16: true`, where the device has it")
    if not use_peft:
        advice.append("LoRA (`use_peft: true`)")
    advice.append("several devices with DeepSpeed ZeRO-3 or FSDP")
    return advice
