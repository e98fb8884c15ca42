"""Bradley-Terry: the probability that the chosen completion wins is the sigmoid of the reward difference."""

from torch import Tensor
from torch.nn import functional as F

from hf_reward.losses.dtypes import at_least_float32


def bradley_terry_loss(chosen_rewards: Tensor, rejected_rewards: Tensor, margin: Tensor | None = None) -> Tensor:
    """
    Negative log-likelihood that the chosen completion of each pair is preferred.

        loss_i = -log sigmoid(chosen_i - rejected_i - margin_i)

    computed as `softplus(-(chosen_i - rejected_i - margin_i))`, which neither overflows nor loses small losses.

    Args:
        chosen_rewards (`torch.Tensor`):
            Rewards of the preferred completions, in reward units.
        rejected_rewards (`torch.Tensor`):
            Rewards of the other completions of the same prompts.
        margin (`torch.Tensor`, *optional*):
            Difference that is required before a pair counts as learnt, in reward units; defaults to 0.

    Shape:
        With P pairs, all arguments and the result are (P,). Half-precision rewards are raised to float32 first.

    Examples:

    >>> import torch
    >>> chosen, rejected = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.0])
    >>> [round(loss, 4) for loss in bradley_terry_loss(chosen, rejected).tolist()]
    [0.3133, 0.6931]
    >>> [round(loss, 4) for loss in bradley_terry_loss(chosen, rejected, margin=torch.tensor([1.0, 0.0])).tolist()]
    [0.6931, 0.6931]

    References:
        Bradley and Terry (1952), Biometrika 39(3/4), for the model of pairwise preference; Touvron et al. (2023),
        arXiv:2307.09288, equation 2, for the margin.
    """
    difference = at_least_float32(chosen_rewards) - at_least_float32(rejected_rewards)
    if margin is not None:
        difference = difference - margin
    return F.softplus(-difference)
