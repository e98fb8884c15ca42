"""Groups: a prompt with k completions, best first, implies k (k - 1) / 2 pairs; a pair is the case k = 2."""

from collections.abc import Sequence

import torch
from torch import Tensor


def group_pairs(group_sizes: Sequence[int], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """
    List every pair (better completion, worse completion) that the ranked groups of a batch imply.

    Args:
        group_sizes (`Sequence[int]`):
            Number of completions of each group, each at least 2. Rewards of a batch stand group after group, best
            completion first. Plain integers, so that a GPU is never waited for.
        device (`torch.device`, *optional*, defaults to `"cpu"`):
            Where the result is wanted.

    Returns:
        `tuple[Tensor, Tensor, Tensor]`: for each implied pair the position of the better and of the worse reward, and
        the group that it belongs to.

    Shape:
        With G groups of sizes k_g: `group_sizes` has G entries, the results are (sum of k_g (k_g - 1) / 2,).

    Examples:

    >>> better, worse, group = group_pairs([2, 3])
    >>> list(zip(better.tolist(), worse.tolist(), group.tolist()))
    [(0, 1, 0), (2, 3, 1), (2, 4, 1), (3, 4, 1)]
    """
    better, worse, group = [], [], []
    start = 0
    for number, size in enumerate(group_sizes):
        pairs = torch.triu_indices(size, size, offset=1) + start
        better.append(pairs[0])
        worse.append(pairs[1])
        group.append(torch.full_like(pairs[0], number))
        start += size
    chosen, rejected, owner = (torch.cat(indices).to(device, non_blocking=True) for indices in (better, worse, group))
    return chosen, rejected, owner


def mean_over_group(values: Tensor, group: Tensor, groups: int, counted: Tensor | None = None) -> Tensor:
    """
    Mean of the values of each group, so that a group counts once however many completions or pairs it has.

        mean_g = sum of c_p values_p over the pairs p of group g, divided by the sum of c_p

    Args:
        values (`torch.Tensor`): A value of every implied pair (or of every completion).
        group (`torch.Tensor`): The group that each value belongs to.
        groups (`int`): Number of groups.
        counted (`torch.Tensor`, *optional*):
            c, true where a value counts; defaults to all. A group of which nothing counts has the mean 0.

    Shape:
        With P implied pairs and G groups: `values`, `group` and `counted` are (P,), the result is (G,).

    Examples:

    >>> import torch
    >>> mean_over_group(torch.tensor([1.0, 3.0, 6.0, 9.0]), torch.tensor([0, 1, 1, 1]), groups=2).tolist()
    [1.0, 6.0]

    References:
        Ouyang et al. (2022), arXiv:2203.02155, equation 1, for the mean over all pairs of a ranked prompt.
    """
    ones = torch.ones_like(values) if counted is None else counted.to(values.dtype)
    total = values.new_zeros(groups).index_add(0, group, ones * values)
    count = values.new_zeros(groups).index_add(0, group, ones)
    return total / count.clamp_min(1)
