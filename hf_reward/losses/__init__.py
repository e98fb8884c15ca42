"""Losses: pure functions from rewards to float32 losses per pair, completion or group; they know no model."""

from hf_reward.losses.bradley_terry import bradley_terry_loss
from hf_reward.losses.centering import reward_centering_penalty
from hf_reward.losses.groups import group_pairs, mean_over_group
from hf_reward.losses.label_smoothing import smoothed_probability
from hf_reward.losses.plackett_luce import plackett_luce_loss
from hf_reward.losses.rao_kupper import rao_kupper_loss
from hf_reward.losses.regression import regression_loss
from hf_reward.losses.scaled_margin import scaled_by_margin
from hf_reward.losses.soft_preference import soft_preference_loss


__all__ = [
    "bradley_terry_loss",
    "group_pairs",
    "mean_over_group",
    "plackett_luce_loss",
    "rao_kupper_loss",
    "regression_loss",
    "reward_centering_penalty",
    "scaled_by_margin",
    "smoothed_probability",
    "soft_preference_loss",
]
