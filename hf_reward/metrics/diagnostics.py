"""What the rewards of preference pairs reveal beyond accuracy: spread, calibration, and a liking for length."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


Numbers = NDArray[np.float64]

QUANTILES = (5, 50, 95)
CALIBRATION_BINS = 10


def diagnostics(
    chosen_rewards: Numbers,
    rejected_rewards: Numbers,
    chosen_tokens: Numbers | None = None,
    rejected_tokens: Numbers | None = None,
    subsets: Sequence[str] | None = None,
) -> dict[str, float]:
    """
    All diagnostics of an evaluation.

    Args:
        chosen_rewards, rejected_rewards (`numpy.ndarray`): Rewards of the two sides, in reward units.
        chosen_tokens, rejected_tokens (`numpy.ndarray`, *optional*): Lengths of the completions, in tokens.
        subsets (`Sequence[str]`, *optional*): The subset that each pair belongs to; empty for none.

    Returns:
        `dict[str, float]`: Metrics by name; what the pairs do not allow to compute is left out. Pairs with a reward
        that is not finite are left out too, and none are returned if none is left.

    Shape:
        With P pairs, all arguments are (P,).

    Examples:

    >>> rewards = np.array([2.0, 1.0]), np.array([1.0, 3.0])
    >>> result = diagnostics(*rewards, np.array([5.0, 9.0]), np.array([7.0, 2.0]), ["math", "chat"])
    >>> result["reward_margin_p50"], result["accuracy_chosen_shorter"], result["longer_wins"]
    (-0.5, 1.0, 0.5)
    >>> result["math_accuracy"], result["math_pairs"], result["chat_accuracy"]
    (1.0, 1, 0.0)
    """
    finite = np.isfinite(chosen_rewards) & np.isfinite(rejected_rewards)
    chosen, rejected = chosen_rewards[finite], rejected_rewards[finite]
    if not len(chosen):
        return {}
    metrics = margin_quantiles(chosen - rejected)
    metrics["calibration_error"] = calibration_error(chosen - rejected)
    if chosen_tokens is not None and rejected_tokens is not None:
        metrics |= length_metrics(chosen, rejected, chosen_tokens[finite], rejected_tokens[finite])
    if subsets is not None:
        kept = list(itertools.compress(subsets, finite))
        for name, (right, pairs) in subset_accuracies(chosen, rejected, kept).items():
            metrics |= {f"{name}_accuracy": right, f"{name}_pairs": pairs}
    return metrics


def accuracy(better: Numbers, worse: Numbers) -> float:
    """
    Share of pairs with better > worse, ties half.

    Examples:

    >>> accuracy(np.array([2.0, 1.0, 0.0, 5.0]), np.array([1.0, 1.0, 4.0, 0.0]))
    0.625
    """
    return float(np.mean((better > worse) + 0.5 * (better == worse)))


def margin_quantiles(margins: Numbers) -> dict[str, float]:
    """
    5th, 50th and 95th percentile of the reward margins, in reward units, interpolated linearly.

    Examples:

    >>> margin_quantiles(np.arange(101.0))
    {'reward_margin_p5': 5.0, 'reward_margin_p50': 50.0, 'reward_margin_p95': 95.0}
    """
    values = np.percentile(margins, QUANTILES)
    return {f"reward_margin_p{q}": float(value) for q, value in zip(QUANTILES, values, strict=True)}


def calibration_error(margins: Numbers, bins: int = CALIBRATION_BINS) -> float:
    """
    Expected calibration error of sigmoid(margin), read as the probability that the chosen completion is the better.

        error = sum_b (n_b / P) |accuracy_b - confidence_b|

    The model bets on the side with the higher reward, with confidence sigmoid(|margin|), from 1/2 to 1; pairs are put
    into bins of equal width by confidence, and in each bin the mean confidence is compared with the accuracy, ties
    half.

    Examples: in the first two pairs the model is 3/4 sure, and right once.

    >>> round(calibration_error(np.array([np.log(3), -np.log(3), 0.0, 0.0])), 6)
    0.125

    References:
        Naeini et al. (2015), AAAI; Guo et al. (2017), arXiv:1706.04599, for the measure.
    """
    # tanh is the form of the sigmoid that does not overflow.
    confidence = 0.5 + 0.5 * np.tanh(np.abs(margins) / 2)
    right = (margins > 0) + 0.5 * (margins == 0)
    number = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
    gap = np.bincount(number, weights=right - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(margins))


def length_metrics(
    chosen: Numbers, rejected: Numbers, chosen_tokens: Numbers, rejected_tokens: Numbers
) -> dict[str, float]:
    """
    How far the reward follows the length of the completion.

    Returns:
        `dict[str, float]`: `length_correlation` (Pearson, over all completions; left out where rewards or lengths are
        all equal), `longer_wins` (what "the longer one is better" would reach on these pairs),
        `accuracy_chosen_shorter` (of the model, where the chosen completion is the shorter one) and
        `pairs_chosen_shorter`, their number.
    """
    # Named so that no reader of `<set>_accuracy` takes them for evaluation sets.
    metrics = {"longer_wins": accuracy(chosen_tokens, rejected_tokens)}
    correlation = pearson(np.concatenate([chosen, rejected]), np.concatenate([chosen_tokens, rejected_tokens]))
    if correlation is not None:
        metrics["length_correlation"] = correlation
    shorter = chosen_tokens < rejected_tokens
    if shorter.any():
        metrics["accuracy_chosen_shorter"] = accuracy(chosen[shorter], rejected[shorter])
    return metrics | {"pairs_chosen_shorter": int(shorter.sum())}


def pearson(first: Numbers, second: Numbers) -> float | None:
    """
    Pearson's correlation, or `None` where one side does not vary.

    Examples:

    >>> round(pearson(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 7.0])), 4)
    0.9934
    >>> pearson(np.array([1.0, 1.0]), np.array([2.0, 4.0])) is None
    True
    """
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    first, second = first - first.mean(), second - second.mean()
    return float(np.clip((first / np.linalg.norm(first)) @ (second / np.linalg.norm(second)), -1, 1))


def subset_accuracies(chosen: Numbers, rejected: Numbers, subsets: Sequence[str]) -> Mapping[str, tuple[float, int]]:
    """
    Accuracy and number of pairs of every subset, in order of name; pairs without a subset are left out.

    Examples:

    >>> subset_accuracies(np.array([2.0, 0.0, 1.0]), np.array([1.0, 1.0, 1.0]), ["b", "b", "a"])
    {'a': (0.5, 1), 'b': (0.5, 2)}
    """
    names = np.array(subsets, dtype=object)
    found = {}
    for name in sorted(set(subsets) - {""}):
        mask = names == name
        found[name] = (accuracy(chosen[mask], rejected[mask]), int(mask.sum()))
    return found
