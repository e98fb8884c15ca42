"""Regression: the reward itself is to be the score that a completion was given."""

from torch import Tensor

from hf_reward.losses.dtypes import at_least_float32


def regression_loss(rewards: Tensor, scores: Tensor) -> Tensor:
    """
    Squared error of every reward.

        loss_s = (r_s - score_s)^2

    Unlike the losses over differences it fixes the level and the unit of the rewards: they are those of the scores.

    Args:
        rewards (`torch.Tensor`): Rewards of single completions.
        scores (`torch.Tensor`): The score of each completion in the data.

    Shape:
        With S completions, the arguments and the result are (S,). Half-precision rewards are raised to float32 first.

    Examples:

    >>> import torch
    >>> regression_loss(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 2.0])).tolist()
    [4.0, 0.0]

    References:
        Wang et al. (2024), arXiv:2406.08673 (HelpSteer2), for reward models by regression on ratings.
    """
    return (at_least_float32(rewards) - scores).square()
