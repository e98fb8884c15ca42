"""The account of the data: rows in and out by source and reason, token lengths, what a trivial judge would score."""

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from hf_reward.data.accounts import SourceCount, SplitRows
from hf_reward.errors import DataError


logger = logging.getLogger(__name__)

# From this share of dropped rows on, a run says so before it starts.
MANY_DROPPED = 0.5


def check_dropped(rows: SplitRows, split: str, max_length: int | None) -> None:
    """
    Say how many rows were dropped, loudly if it is most of them, and refuse to go on with none.

    Raises:
        `DataError`: Every row was dropped; the message says for which reasons, and the lengths that were met.
    """
    total = _total(rows.counts())
    if not total.dropped and total.kept:
        return
    reasons = ", ".join(f"{reason}: {count}" for reason, count in total.dropped.most_common()) or "there was none"
    lengths = rows.number("length", rows.member)
    met = lengths[lengths > 0]
    shortest = int(met.min()) if len(met) else 0
    if not total.kept:
        raise DataError(
            f"{split}: 0 of {total.rows} pairs are left ({reasons}; shortest pair {shortest} tokens, max_length "
            f"{max_length}). Raise `max_length`, or look at the data."
        )
    many = total.rows - total.kept > MANY_DROPPED * total.rows
    logger.warning(
        "%s: %s%d of %d pairs dropped (%s); lengths p50 %d, p95 %d, longest %d tokens, max_length %s",
        split,
        "more than half, " if many else "",
        total.rows - total.kept,
        total.rows,
        reasons,
        *(int(np.percentile(met, q, method="inverted_cdf")) if len(met) else 0 for q in (50, 95, 100)),
        max_length,
    )


def split_report(rows: SplitRows, max_length: int | None) -> dict[str, Any]:
    """
    Describe one split after tokenisation.

    Returns:
        `dict`: `rows`, `kept`, `dropped`, the same by source under `sources`, `notes` (rows that are worth a word, by
        note), `tokens` (mean and quantiles of the prompt and of the chosen and the rejected completion; of a group the
        best and the worst one), `shared_prompt_tokens` (share of all tokens that computing each prompt once would
        save), `shared_prefix_tokens` (the same for the longest common prefix), `longer_is_chosen` (accuracy of
        preferring the longer completion, ties half), `max_length`.
    """
    tokens, spared = int(rows.of_kept("group_tokens").sum()), rows.of_kept("group_size") - 1
    sides = (rows.of_kept(f"{side}_length") for side in ("chosen", "rejected"))
    return {
        **counts_report(rows.counts()),
        "notes": rows.notes(),
        "tokens": {part: _quantiles(_lengths(rows, part)) for part in ("prompt", "chosen", "rejected")},
        **{
            f"shared_{part}_tokens": round(float((rows.of_kept(column) * spared).sum() / tokens), 4)
            for part, column in (("prompt", "prompt_length"), ("prefix", "shared_prefix_length"))
        },
        "longer_is_chosen": round(_longer_is_chosen(*sides), 4),
        "max_length": max_length,
    }


def counts_report(counts: Mapping[str, SourceCount]) -> dict[str, Any]:
    """
    What the counts of a split come to, and all that is known of a stream: `rows`, `kept`, `dropped`, and the same by
    source under `sources`.

    Examples:

    >>> report = counts_report({"a.jsonl": SourceCount(3, Counter(identical=1)), "b.jsonl": SourceCount(2)})
    >>> report["rows"], report["kept"], report["dropped"]
    (5, 4, {'identical': 1})
    """
    return _total(counts).as_dict() | {"sources": {name: count.as_dict() for name, count in counts.items()}}


def _total(counts: Mapping[str, SourceCount]) -> SourceCount:
    every = counts.values()
    return SourceCount(sum(count.rows for count in every), sum((count.dropped for count in every), Counter[str]()))


def _lengths(rows: SplitRows, part: str) -> np.ndarray:
    """Tokens of one part of the rows that are kept; of a side those behind the prompt."""
    lengths = rows.of_kept(f"{part}_length")
    return lengths if part == "prompt" else lengths - rows.of_kept("prompt_length")


def _longer_is_chosen(chosen: np.ndarray, rejected: np.ndarray) -> float:
    """Accuracy of preferring the longer side, ties half."""
    right, ties = np.count_nonzero(chosen > rejected), np.count_nonzero(chosen == rejected)
    return (right + ties / 2) / len(chosen)


def _quantiles(values: np.ndarray) -> dict[str, float]:
    return {
        "mean": round(float(values.mean()), 1),
        **{f"p{q}": int(np.percentile(values, q, method="inverted_cdf")) for q in (5, 50, 95)},
        "max": int(values.max()),
    }
