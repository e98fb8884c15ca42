"""Soft preference: the chosen completion was preferred with a known probability, as by a share of several judges."""

from torch import Tensor
from torch.nn import functional as F

from hf_reward.losses.dtypes import at_least_float32


def soft_preference_loss(
    chosen_rewards: Tensor, rejected_rewards: Tensor, chosen_probability: Tensor, margin: Tensor | None = None
) -> Tensor:
    """
    Cross-entropy between the probability that the data gives and the one that the rewards give.

        loss_i = -(p_i log sigmoid(d_i) + (1 - p_i) log sigmoid(-d_i)),   d_i = chosen_i - rejected_i - margin_i

    It is smallest where sigmoid(d_i) = p_i, so a pair of probability 1/2 draws its two rewards together. With p_i = 1
    it is [`bradley_terry_loss`].

    Args:
        chosen_rewards, rejected_rewards (`torch.Tensor`):
            Rewards of the two sides, in reward units.
        chosen_probability (`torch.Tensor`):
            Probability p that the chosen side is preferred, from 0 to 1.
        margin (`torch.Tensor`, *optional*):
            Subtracted from the difference, in reward units; defaults to 0.

    Shape:
        With P pairs, all arguments and the result are (P,). Half-precision rewards are raised to float32 first.

    Examples:

    >>> import torch
    >>> chosen, rejected, p = torch.tensor([1.0, 1.0]), torch.tensor([0.0, 0.0]), torch.tensor([1.0, 0.75])
    >>> [round(loss, 4) for loss in soft_preference_loss(chosen, rejected, p).tolist()]
    [0.3133, 0.5633]

    References:
        Bradley and Terry (1952), Biometrika 39(3/4), for the model whose cross-entropy this is.
    """
    difference = at_least_float32(chosen_rewards) - at_least_float32(rejected_rewards)
    if margin is not None:
        difference = difference - margin
    return chosen_probability * F.softplus(-difference) + (1 - chosen_probability) * F.softplus(difference)
