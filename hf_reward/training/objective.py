"""What one batch comes to: rewards of all completions, the pairs they imply, and one loss per group."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hf_reward.losses import bradley_terry_loss, group_pairs, mean_over_group, reward_centering_penalty
from hf_reward.modeling.score_head import last_token_positions


MODEL_INPUTS = ("input_ids", "attention_mask", "position_ids", "token_type_ids")


@dataclass
class PreferenceOutputs:
    """
    Rewards and losses of one batch.

    Attributes:
        rewards (`torch.Tensor`): Rewards group after group, best completion first; (S,).
        chosen_rewards, rejected_rewards (`torch.Tensor`): Rewards of the two sides of every implied pair; (P,).
        groups (`torch.Tensor`): The group of every pair; (P,).
        losses (`torch.Tensor`): Loss of every group; (G,).
    """

    rewards: Tensor
    chosen_rewards: Tensor
    rejected_rewards: Tensor
    groups: Tensor
    losses: Tensor


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


def preference_outputs(
    model: nn.Module, batch: dict[str, Any], center_rewards_coefficient: float | None = None
) -> PreferenceOutputs:
    """
    One forward pass over all sequences of a batch, and the loss of every group.

    Args:
        model (`nn.Module`): A model whose forward takes `reward_positions`, however it is wrapped.
        batch (`dict`): A batch of [`PreferenceCollator`].
        center_rewards_coefficient (`float`, *optional*): Factor of the centring penalty.
    """
    tokens = {name: batch[name] for name in MODEL_INPUTS if name in batch}
    rewards = model(**tokens, reward_positions=batch["reward_positions"]).logits
    rewards = rewards.to(torch.promote_types(rewards.dtype, torch.float32))
    better, worse, groups = group_pairs(batch["group_sizes"], rewards.device)
    chosen, rejected = rewards[better], rewards[worse]
    margin = batch["margin"][groups] if "margin" in batch else None
    losses = bradley_terry_loss(chosen, rejected, margin)
    if center_rewards_coefficient:
        losses = losses + center_rewards_coefficient * reward_centering_penalty(chosen, rejected)
    return PreferenceOutputs(
        rewards, chosen, rejected, groups, mean_over_group(losses, groups, len(batch["group_sizes"]))
    )


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
