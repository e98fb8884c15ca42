"""Plackett-Luce: a ranking is made by choosing the best of what is left, again and again."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_reward.losses.dtypes import at_least_float32


def plackett_luce_loss(rewards: Tensor, group_sizes: Sequence[int]) -> Tensor:
    """
    Negative log-likelihood of the ranking of every group.

        loss_g = -sum_{j=1}^{k-1} log( exp(r_j) / sum_{i=j}^{k} exp(r_i) )
               = sum_{j=1}^{k-1} softplus( log sum_{i>j} exp(r_i - r_j) )

    with r_1 ... r_k the rewards of the group, best completion first. The second form neither overflows nor loses small
    losses; for k = 2 it is [`bradley_terry_loss`]. A ranking of k is k - 1 choices, so it weighs more than a pair.

    Args:
        rewards (`torch.Tensor`):
            Rewards group after group, best completion first, in reward units.
        group_sizes (`Sequence[int]`):
            Number of completions of each group, each at least 2. Plain integers, so that a GPU is never waited for.

    Shape:
        With S completions in G groups: `rewards` (S,), the result (G,).

    Examples:

    >>> import torch
    >>> rewards = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0])  # a pair, and three completions of equal reward
    >>> [round(loss, 4) for loss in plackett_luce_loss(rewards, (2, 3)).tolist()]  # the second: log 3 + log 2
    [0.3133, 1.7918]

    References:
        Luce (1959), Individual Choice Behavior; Plackett (1975), Applied Statistics 24(2), for the model.
    """
    ranked = nn.utils.rnn.pad_sequence(at_least_float32(rewards).split(tuple(group_sizes)), batch_first=True)
    sizes = torch.tensor(group_sizes).to(rewards.device, non_blocking=True)
    places = torch.arange(ranked.shape[1], device=rewards.device)
    # [g, j, i]: completion i stands against j when j is chosen, because it is ranked lower and is not padding.
    rivals = (places > places.unsqueeze(1)) & (places < sizes[:, None, None])
    gaps = ranked.unsqueeze(1) - ranked.unsqueeze(2)
    # Finite, because a row without rivals of -inf alone would have a gradient of NaN; softplus makes it 0.
    gaps = gaps.masked_fill(~rivals, torch.finfo(gaps.dtype).min / 2)
    return F.softplus(gaps.logsumexp(2)).sum(1)
