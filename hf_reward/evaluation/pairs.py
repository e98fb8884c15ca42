"""Preference pairs with the rewards that a model gave them, and the choice of those worth reading."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ScoredPair:
    """
    One preference pair as text, with the reward of either side.

    Args:
        prompt (`str`): What both completions answer; empty if the data has no separate prompt.
        chosen (`str`): The better completion, according to the data.
        rejected (`str`): The worse completion, according to the data.
        chosen_reward (`float`): Reward of the chosen side, in reward units.
        rejected_reward (`float`): Reward of the rejected side, in reward units.
        index (`int`, *optional*): Position of the pair in its dataset, counted from 0.
    """

    prompt: str
    chosen: str
    rejected: str
    chosen_reward: float
    rejected_reward: float
    index: int | None = None

    @property
    def margin(self) -> float:
        """Chosen reward minus rejected reward; above 0 where the model agrees with the data."""
        return self.chosen_reward - self.rejected_reward


def best_and_worst(pairs: Sequence[ScoredPair], count: int = 3) -> tuple[list[ScoredPair], list[ScoredPair]]:
    """
    Pick the pairs that the model gets most clearly right and most clearly wrong.

    Pairs with the same margin keep the order of their index (of their position where they have none). A pair whose
    margin is not finite is left out, since it has no place in the order. With fewer than `2 * count` pairs the two
    lists overlap.

    Args:
        pairs (`Sequence[ScoredPair]`): The pairs to choose from.
        count (`int`, *optional*, defaults to 3): How many pairs to return at either end.

    Returns:
        `tuple[list[ScoredPair], list[ScoredPair]]`: Largest margin first, and smallest margin first.

    Examples:

    >>> pairs = [ScoredPair("", "a", "b", reward, 0.0) for reward in (1.0, -2.0, 3.0)]
    >>> best, worst = best_and_worst(pairs, count=1)
    >>> best[0].margin, worst[0].margin
    (3.0, -2.0)
    """
    finite = [(pair, place) for place, pair in enumerate(pairs) if math.isfinite(pair.margin)]
    finite.sort(key=lambda item: item[1] if item[0].index is None else item[0].index)
    ordered = [pair for pair, _ in finite]
    best = sorted(ordered, key=lambda pair: -pair.margin)
    worst = sorted(ordered, key=lambda pair: pair.margin)
    return best[:count], worst[:count]


def sample_indices(margins: Sequence[float], count: int, seed: int) -> dict[str, list[int]]:
    """
    Places of the pairs to show of an evaluation: those most clearly right, most clearly wrong, and some at random.

    The random ones depend on the seed and the number of pairs alone, so that the same pairs can be followed from one
    evaluation to the next. A pair whose margin is not finite can only be among them.

    Args:
        margins (`Sequence[float]`): Chosen minus rejected reward of every pair.
        count (`int`): How many of each.
        seed (`int`): Of the random choice.

    Returns:
        `dict[str, list[int]]`: `"best"` (largest margin first), `"worst"` (smallest first), `"random"` (in order).

    Examples:

    >>> chosen = sample_indices([1.0, -2.0, 3.0, math.nan], count=2, seed=0)
    >>> chosen["best"], chosen["worst"], len(chosen["random"])
    ([2, 0], [1, 0], 2)
    """
    finite = [place for place, margin in enumerate(margins) if math.isfinite(margin)]
    return {
        "best": sorted(finite, key=lambda place: -margins[place])[:count],
        "worst": sorted(finite, key=lambda place: margins[place])[:count],
        "random": sorted(random.Random(seed).sample(range(len(margins)), min(count, len(margins)))),
    }
