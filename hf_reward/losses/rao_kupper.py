"""Rao-Kupper: Bradley-Terry with a third outcome, the tie."""

import math

from torch import Tensor
from torch.nn import functional as F

from hf_reward.losses.dtypes import at_least_float32


def rao_kupper_loss(
    chosen_rewards: Tensor,
    rejected_rewards: Tensor,
    threshold: float,
    tie: Tensor | None = None,
    chosen_probability: Tensor | None = None,
    margin: Tensor | None = None,
) -> Tensor:
    """
    Negative log-likelihood of wins and ties.

        P(chosen wins)   = sigmoid(d_i - log t),   d_i = chosen_i - rejected_i - margin_i
        P(rejected wins) = sigmoid(-d_i - log t)
        P(tie)           = (t^2 - 1) sigmoid(d_i - log t) sigmoid(-d_i - log t)

    The three add up to 1; with equal rewards a tie has probability (t - 1) / (t + 1).

    Args:
        chosen_rewards, rejected_rewards (`torch.Tensor`):
            Rewards of the two sides, in reward units; of a tie, in any order.
        threshold (`float`):
            t above 1: rewards that differ by less than log t are hard to tell apart.
        tie (`torch.Tensor` of `bool`, *optional*):
            Which pairs are ties; defaults to none.
        chosen_probability (`torch.Tensor`, *optional*):
            Probability that the chosen side won, where a pair is no tie; defaults to 1.
        margin (`torch.Tensor`, *optional*):
            Subtracted from the difference, in reward units; defaults to 0.

    Shape:
        With P pairs, all tensors and the result are (P,). Half-precision rewards are raised to float32 first.

    Examples:

    >>> import torch
    >>> chosen, rejected, tie = torch.zeros(2), torch.zeros(2), torch.tensor([False, True])
    >>> [round(loss, 4) for loss in rao_kupper_loss(chosen, rejected, 3.0, tie).tolist()]  # -log 1/4, -log 1/2
    [1.3863, 0.6931]

    References:
        Rao and Kupper (1967), Journal of the American Statistical Association 62(317).
    """
    difference = at_least_float32(chosen_rewards) - at_least_float32(rejected_rewards)
    if margin is not None:
        difference = difference - margin
    win, loss = F.softplus(math.log(threshold) - difference), F.softplus(math.log(threshold) + difference)
    decided = win if chosen_probability is None else chosen_probability * win + (1 - chosen_probability) * loss
    if tie is None:
        return decided
    return (win + loss - math.log(threshold**2 - 1)).where(tie, decided)
