"""Label smoothing: a share of the labels is taken to be the wrong way round."""

from torch import Tensor


def smoothed_probability(chosen_probability: Tensor, label_smoothing: float) -> Tensor:
    """
    Probability that the chosen side is preferred, if each label was flipped with a given probability.

        p'_i = (1 - e) p_i + e (1 - p_i)

    Given to [`soft_preference_loss`] with p_i = 1, this is -((1 - e) log sigmoid(d_i) + e log sigmoid(-d_i)): no pair
    asks for an endless difference any more, but for d = log((1 - e) / e).

    Args:
        chosen_probability (`torch.Tensor`):
            Probability p that the data states, 1 for an ordinary pair.
        label_smoothing (`float`):
            Probability e that a label is the wrong way round, at least 0 and below 1/2.

    Shape:
        With P pairs, the argument and the result are (P,).

    Examples:

    >>> import torch
    >>> [round(p, 4) for p in smoothed_probability(torch.tensor([1.0, 0.5, 0.75]), 0.1).tolist()]
    [0.9, 0.5, 0.7]

    References:
        Wang et al. (2024), arXiv:2401.06080, for label smoothing in reward models.
    """
    return (1 - label_smoothing) * chosen_probability + label_smoothing * (1 - chosen_probability)
