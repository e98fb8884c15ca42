"""Losses: pure functions from rewards to one float32 loss per pair or group; they know no model and no trainer."""

from hf_reward.losses.bradley_terry import bradley_terry_loss
from hf_reward.losses.centering import reward_centering_penalty
from hf_reward.losses.groups import group_pairs, mean_over_group


__all__ = ["bradley_terry_loss", "group_pairs", "mean_over_group", "reward_centering_penalty"]
