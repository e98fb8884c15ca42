"""Reward centring: a small penalty that keeps the rewards of a pair around zero."""

from torch import Tensor

from hf_reward.losses.dtypes import at_least_float32


def reward_centering_penalty(chosen_rewards: Tensor, rejected_rewards: Tensor) -> Tensor:
    """
    Squared sum of the two rewards of each pair; times `center_rewards_coefficient` it is added to the loss.

        penalty_i = (chosen_i + rejected_i)^2

    Only differences of rewards are learnt from pairs, so their common level is free to drift; this term pins it to 0.

    Shape:
        With P pairs, the arguments and the result are (P,). Half-precision rewards are raised to float32 first.

    Examples:

    >>> import torch
    >>> reward_centering_penalty(torch.tensor([1.0, 2.0]), torch.tensor([-1.0, 1.0])).tolist()
    [0.0, 9.0]

    References:
        Eisenstein et al. (2023), arXiv:2312.09244.
    """
    return (at_least_float32(chosen_rewards) + at_least_float32(rejected_rewards)).square()
