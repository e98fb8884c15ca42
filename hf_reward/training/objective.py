"""What one batch comes to: rewards of all completions, the pairs they imply, and one loss per group."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from hf_reward.config import RewardConfig
from hf_reward.errors import ConfigurationError
from hf_reward.losses import (
    bradley_terry_loss,
    group_pairs,
    mean_over_group,
    plackett_luce_loss,
    rao_kupper_loss,
    regression_loss,
    reward_centering_penalty,
    scaled_by_margin,
    smoothed_probability,
    soft_preference_loss,
)
from hf_reward.modeling.score_head import last_token_positions


T = TypeVar("T")

MODEL_INPUTS = ("input_ids", "attention_mask", "position_ids", "token_type_ids", "group_spans")
# Columns that only the losses over pairs know how to use.
PAIR_COLUMNS = ("margin", "chosen_probability", "tie")


@dataclass
class PreferenceOutputs:
    """
    Rewards and losses of one batch.

    Attributes:
        rewards (`torch.Tensor`): Rewards group after group, best completion first; (S,).
        better, worse (`torch.Tensor`): Places in `rewards` of the two sides of every implied pair; (P,).
        groups (`torch.Tensor`): The group of every pair; (P,).
        decided (`torch.Tensor`): Whether one side of the pair is the preferred one: false for a tie; (P,).
        losses (`torch.Tensor`): Loss of every group; (G,).
    """

    rewards: Tensor
    better: Tensor
    worse: Tensor
    groups: Tensor
    decided: Tensor
    losses: Tensor

    @property
    def chosen_rewards(self) -> Tensor:
        """Rewards of the preferred side of every implied pair; (P,)."""
        return self.rewards[self.better]

    @property
    def rejected_rewards(self) -> Tensor:
        """Rewards of the other side of every implied pair; (P,)."""
        return self.rewards[self.worse]


def complete_batch(inputs: dict[str, Any]) -> dict[str, Any]:
    """
    Fill in what another collator than ours leaves out.

    A batch of token rows alone is taken as pairs, all chosen rows first and then all rejected ones; rewards are
    read at the last token of the attention mask.
    """
    batch = dict(inputs)
    if "reward_positions" not in batch:
        pairs = batch["input_ids"].shape[0] // 2
        mask = batch.setdefault("attention_mask", torch.ones_like(batch["input_ids"]))
        batch["reward_positions"] = last_token_positions(mask).view(2, pairs).T.flatten()
        batch["group_sizes"] = (2,) * pairs
    if "weight" not in batch:
        batch["weight"] = torch.ones(len(batch["group_sizes"]), device=batch["input_ids"].device)
    return batch


def check_loss_columns(columns: Iterable[str], args: RewardConfig, name: str) -> None:
    """
    See that the loss that was asked for has the columns it needs, and uses those that are there.

    Raises:
        `ConfigurationError`: Loss and data do not fit together.
    """
    present = set(columns)
    if args.loss_type == "regression" and "scores" not in present:
        raise ConfigurationError(
            f"{name}: `loss_type: regression` needs a `scores` column (one score per completion), and there is none. "
            "Add it, or choose `loss_type: bradley_terry`."
        )
    unused = [column for column in PAIR_COLUMNS if column in present]
    if args.loss_type != "bradley_terry" and unused:
        raise ConfigurationError(
            f"{name}: `loss_type: {args.loss_type}` has no use for the column `{unused[0]}`, which would be ignored. "
            "Leave the column out, or choose `loss_type: bradley_terry`."
        )
    if args.margin_mode == "scale" and name == "train" and "margin" not in present:
        raise ConfigurationError(
            f"{name}: `margin_mode: scale` multiplies the loss by the `margin` column, and there is none. "
            "Add it, or leave `margin_mode` out."
        )


def completion_rewards(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    """
    Score all completions of a batch in one forward pass.

    Args:
        model (`nn.Module`): A model whose forward takes `reward_positions`, however it is wrapped.
        batch (`dict`): A batch of [`PreferenceCollator`].

    Returns:
        `torch.Tensor`: Rewards group after group, best completion first, in float32 or better; (S,).
    """
    tokens = {name: batch[name] for name in MODEL_INPUTS if name in batch}
    rewards: Tensor = model(**tokens, reward_positions=batch["reward_positions"]).logits
    return rewards.to(torch.promote_types(rewards.dtype, torch.float32))


def preference_outputs(model: nn.Module, batch: dict[str, Any], args: RewardConfig) -> PreferenceOutputs:
    """Score a batch, find the pairs that it implies, and take the loss of every group; see [`group_losses`]."""
    check_loss_columns(batch, args, "The batch")
    return outputs_of_rewards(completion_rewards(model, batch), batch, args)


def outputs_of_rewards(rewards: Tensor, batch: dict[str, Any], args: RewardConfig) -> PreferenceOutputs:
    """Pairs and losses of a batch whose rewards are known; `rewards` is (S,), in the order of `reward_positions`."""
    better, worse, groups = group_pairs(batch["group_sizes"], rewards.device)
    decided = torch.ones_like(groups, dtype=torch.bool)
    if "chosen_probability" in batch:
        probability = batch["chosen_probability"][groups]
        flipped = probability < 0.5
        better, worse = torch.where(flipped, worse, better), torch.where(flipped, better, worse)
        decided &= probability != 0.5
    if "tie" in batch:
        decided &= ~batch["tie"][groups]
    if "scores" in batch:
        decided &= batch["scores"][better] != batch["scores"][worse]
    outputs = PreferenceOutputs(rewards, better, worse, groups, decided, rewards)
    outputs.losses = group_losses(outputs, batch, args)
    return outputs


def group_losses(outputs: PreferenceOutputs, batch: dict[str, Any], args: RewardConfig) -> Tensor:
    """
    The loss of every group: the mean over its completions (regression), of its ranking (Plackett-Luce), or the mean
    over its pairs (everything else), and the centring penalty.

    Shape:
        With G groups, the result is (G,).
    """
    sizes = batch["group_sizes"]
    chosen, rejected = outputs.chosen_rewards, outputs.rejected_rewards
    if args.loss_type == "regression":
        numbers = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)).to(chosen.device)
        losses = mean_over_group(regression_loss(outputs.rewards, batch["scores"]), numbers, len(sizes))
    elif args.loss_type == "plackett_luce":
        losses = plackett_luce_loss(outputs.rewards, sizes)
    else:
        compared = _compared(outputs, batch) if "scores" in batch else None
        losses = mean_over_group(pair_losses(outputs, batch, args), outputs.groups, len(sizes), compared)
    if args.center_rewards_coefficient:
        penalty = mean_over_group(reward_centering_penalty(chosen, rejected), outputs.groups, len(sizes))
        losses = losses + args.center_rewards_coefficient * penalty
    return losses


def pair_losses(outputs: PreferenceOutputs, batch: dict[str, Any], args: RewardConfig) -> Tensor:
    """
    The loss of every implied pair, with what the data says of it: `margin`, `chosen_probability`, `tie`.

    Without a `tie_threshold`, a tie is a pair that either side would win with probability 1/2.

    Shape:
        With P implied pairs, the result is (P,).
    """
    chosen, rejected, groups = outputs.chosen_rewards, outputs.rejected_rewards, outputs.groups
    margin, probability, tie = (batch[name][groups] if name in batch else None for name in PAIR_COLUMNS)
    if probability is not None:
        # The pairs are turned so that the likelier side is the chosen one.
        probability = torch.maximum(probability, 1 - probability)
    elif args.label_smoothing or (tie is not None and args.tie_threshold is None):
        probability = torch.ones_like(chosen)
    if tie is not None and args.tie_threshold is None and probability is not None:
        probability = probability.masked_fill(tie, 0.5)
    if args.label_smoothing and probability is not None:
        probability = smoothed_probability(probability, args.label_smoothing)
    subtracted = margin if args.margin_mode == "subtract" else None
    if args.tie_threshold is not None:
        losses = rao_kupper_loss(chosen, rejected, args.tie_threshold, tie, probability, subtracted)
    elif probability is not None:
        losses = soft_preference_loss(chosen, rejected, probability, subtracted)
    else:
        losses = bradley_terry_loss(chosen, rejected, subtracted)
    if args.margin_mode == "scale" and margin is not None:
        # A tie has no margin, and yet it teaches something.
        losses = scaled_by_margin(losses, margin if tie is None else margin.masked_fill(tie, 1.0))
    return losses


def _compared(outputs: PreferenceOutputs, batch: dict[str, Any]) -> Tensor:
    """Pairs that the data compares: completions with equal scores are none, unless they are called a tie."""
    scores: Tensor = batch["scores"]
    different = scores[outputs.better] != scores[outputs.worse]
    return different | batch["tie"][outputs.groups] if "tie" in batch else different


def pairs_of_groups(values: Sequence[T], group_sizes: Sequence[int]) -> list[T]:
    """
    What is known of each group, for each of the pairs that it implies.

    Examples:

    >>> pairs_of_groups(["a", "b"], (2, 3))
    ['a', 'b', 'b', 'b']
    """
    return [value for value, k in zip(values, group_sizes, strict=True) for _ in range(k * (k - 1) // 2)]


def reward_matrix(rewards: Tensor, group_sizes: tuple[int, ...]) -> Tensor:
    """
    Rewards with one row per group, best completion first; NaN where a group has fewer completions than the largest.

    Shape:
        `rewards`: (S,); result: (G, largest k), for pairs (P, 2).

    Examples:

    >>> import torch
    >>> reward_matrix(torch.tensor([2.0, 1.0, 5.0, 4.0]), (2, 2)).tolist()
    [[2.0, 1.0], [5.0, 4.0]]
    """
    widest = max(group_sizes)
    if all(size == widest for size in group_sizes):
        return rewards.view(-1, widest)
    rows = [nn.functional.pad(row, (0, widest - len(row)), value=float("nan")) for row in rewards.split(group_sizes)]
    return torch.stack(rows)
