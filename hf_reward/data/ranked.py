"""Ranked completions: kept as one group, or turned into pairs by a rule; what their scores say about each pair."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from hf_reward.data.formats import PreferenceRow, TokenRow
from hf_reward.errors import DataError


Row = PreferenceRow | TokenRow

PAIR_RULES: dict[str, Callable[[int], list[tuple[int, int]]]] = {
    "all_pairs": lambda count: list(combinations(range(count), 2)),
    "best_vs_each": lambda count: [(0, other) for other in range(1, count)],
    "best_vs_worst": lambda count: [(0, count - 1)],
}


@dataclass(frozen=True)
class Dropped:
    """A row, or a pair of a ranked row, that is left out: the reason under which it is counted, and what to say."""

    reason: str
    message: str = ""


@dataclass(frozen=True)
class RankedRule:
    """
    What becomes of ranked completions and of scores.

    Attributes:
        ranked_to_pairs (`str`): `"none"` keeps a row as one group, the others are the rules of `PAIR_RULES`.
        min_score_gap (`float`): Pairs whose scores are closer are left out.
        margin_from_scores (`bool`): Whether the difference of the scores becomes the `margin` of a pair.
        equal_scores (`str`): Whether a pair of equal scores is left out (`"drop"`) or a tie (`"tie"`).
    """

    ranked_to_pairs: str = "none"
    min_score_gap: float = 0.0
    margin_from_scores: bool = False
    equal_scores: str = "drop"

    def apply(self, row: Row, labelled: bool, place: str) -> list[Row | Dropped]:
        """
        The groups or pairs of one row, and the pairs that are left out.

        Args:
            row (`PreferenceRow` or `TokenRow`): The row, best completion first.
            labelled (`bool`): Whether the order is that of the columns chosen and rejected. It then stands even
                where the scores are equal or say otherwise; only the smallest gap is asked of them.
            place (`str`): Where the row stands.

        Raises:
            `DataError`: Scores are asked for, and the row has none, or a `margin` beside them.

        Examples:

        >>> row = PreferenceRow("Hi", ["a", "b", "c"], None, {}, None, None, scores=[3.0, 2.0, 2.0])
        >>> pairs = RankedRule("all_pairs", margin_from_scores=True).apply(row, False, "row 1")
        >>> [pair.reason if isinstance(pair, Dropped) else (pair.completions, pair.margin) for pair in pairs]
        [(['a', 'b'], 1.0), (['a', 'c'], 1.0), 'equal_scores']
        """
        self._check(row, place)
        count = len(row.completions)
        if self.ranked_to_pairs == "none" and count > 2:
            return [self._group(row, place)]
        rule = PAIR_RULES["best_vs_worst" if self.ranked_to_pairs == "none" else self.ranked_to_pairs]
        if row.scores is None and count == 2:
            return [row]
        return [self._pair(row, better, worse, labelled, place) for better, worse in rule(count)]

    def _check(self, row: Row, place: str) -> None:
        if row.scores is None and (self.margin_from_scores or self.min_score_gap > 0):
            setting = "margin_from_scores" if self.margin_from_scores else "min_score_gap"
            raise DataError(
                f"{place}: has no scores (expected them, because `{setting}` is set). Give the completions `scores`, "
                "or leave the setting out."
            )
        if self.margin_from_scores and row.margin is not None:
            raise DataError(
                f"{place}: has a `margin` of its own (expected none, because `margin_from_scores` is set). Remove one."
            )

    def _pair(self, row: Row, better: int, worse: int, labelled: bool, place: str) -> Row | Dropped:
        completions: Any = [row.completions[better], row.completions[worse]]
        if row.scores is None:
            return replace(row, completions=completions)
        scores = [row.scores[better], row.scores[worse]]
        gap = scores[0] - scores[1]
        if gap == 0 and not labelled and self.equal_scores == "drop":
            return Dropped("equal_scores", f"{place}: both completions have the score {scores[0]:g}.")
        tie = row.tie or (gap == 0 and not labelled)
        if 0 < self.min_score_gap > gap and not tie:
            return Dropped("score_gap", f"{place}: the scores {scores[0]:g} and {scores[1]:g} are closer than asked.")
        margin = gap if self.margin_from_scores else row.margin
        return replace(row, completions=completions, scores=scores, margin=margin, tie=tie)

    def _group(self, row: Row, place: str) -> Row | Dropped:
        """The group without completions that are too close to the one before, so that each of its pairs is decided."""
        if row.scores is None:
            return row
        kept = [0]
        for index in range(1, len(row.scores)):
            gap = row.scores[kept[-1]] - row.scores[index]
            if gap > 0 and gap >= self.min_score_gap:
                kept.append(index)
        if len(kept) < 2:
            return Dropped("equal_scores", f"{place}: no two of the scores differ as much as asked.")
        completions: Any = [row.completions[index] for index in kept]
        scores = [row.scores[index] for index in kept]
        return replace(row, completions=completions, scores=scores, left_out=len(row.scores) - len(kept))
