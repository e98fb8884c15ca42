"""Scaled margin: pairs that differ more count more."""

from torch import Tensor


def scaled_by_margin(losses: Tensor, margin: Tensor) -> Tensor:
    """
    Multiply the loss of every pair by its margin; with [`bradley_terry_loss`] this is the scaled Bradley-Terry loss.

        loss_i = -margin_i log sigmoid(chosen_i - rejected_i)

    Unlike a subtracted margin it has no unit of reward, and it needs no matching of its size to that of the rewards. A
    margin of 0 leaves a pair out.

    Args:
        losses (`torch.Tensor`): Loss of every pair, without a margin in it.
        margin (`torch.Tensor`): How much better the chosen side is, such as a difference of ratings; not negative.

    Shape:
        With P pairs, the arguments and the result are (P,).

    Examples:

    >>> import torch
    >>> scaled_by_margin(torch.tensor([0.5, 0.25]), torch.tensor([1.0, 3.0])).tolist()
    [0.5, 0.75]

    References:
        Wang et al. (2024), arXiv:2410.01257 (HelpSteer2-Preference), for the scaled Bradley-Terry loss.
    """
    return losses * margin
