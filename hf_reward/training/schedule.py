"""How many optimizer steps a run has, how many pairs one of them has, and after which ones to evaluate."""

import math

from hf_reward.config import RewardConfig


def pairs_per_step(args: RewardConfig) -> int:
    """Pairs of one optimizer step, over all processes and micro-batches."""
    return int(args.train_batch_size * args.gradient_accumulation_steps * args.world_size)


def optimizer_steps(args: RewardConfig, pairs: int, micro_steps: int | None = None) -> int:
    """
    Optimizer steps of a run over so many pairs, as the trainer counts them.

    Args:
        args (`RewardConfig`): The settings.
        pairs (`int`): Rows of the training data.
        micro_steps (`int`, *optional*): Batches of an epoch on one process, where a token budget makes them.

    A last micro-batch that is not full counts, and so does a last window of gradient accumulation that is not full.
    """
    if args.total_episodes is not None:
        return max(1, args.total_episodes // pairs_per_step(args))
    if args.max_steps > 0:
        return args.max_steps
    per_micro_step: int = args.train_batch_size * args.world_size
    if micro_steps is None:
        micro_steps = pairs // per_micro_step if args.dataloader_drop_last else math.ceil(pairs / per_micro_step)
    return math.ceil(args.num_train_epochs * max(1, math.ceil(micro_steps / args.gradient_accumulation_steps)))


def evaluation_steps(max_steps: int, num_evals: int) -> set[int]:
    """
    Optimizer steps after which to evaluate.

    Examples:

    >>> sorted(evaluation_steps(max_steps=10, num_evals=3))
    [3, 7, 10]
    >>> evaluation_steps(max_steps=10, num_evals=0)
    set()
    """
    return {max(1, round(max_steps * number / num_evals)) for number in range(1, num_evals + 1)}
