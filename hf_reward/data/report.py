"""The account of the data: rows in and out by source and reason, token lengths, and what a trivial judge would score."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset

from hf_reward.errors import DataError


@dataclass
class SourceCount:
    """Rows of one source: how many came in, how many are kept, how many were dropped and why."""

    rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    @property
    def kept(self) -> int:
        """Rows in minus rows dropped."""
        return self.rows - sum(self.dropped.values())

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, as in `data_report.json`."""
        return {"rows": self.rows, "kept": self.kept, "dropped": dict(sorted(self.dropped.items()))}


def split_off_dropped(dataset: Dataset) -> tuple[Dataset, SourceCount]:
    """Take the rows that have a drop reason out of a tokenised dataset, and count them."""
    reasons = np.asarray(dataset.with_format("numpy")["drop_reason"][:], dtype=str)
    count = SourceCount(len(reasons), Counter(reasons[reasons != ""].tolist()))
    kept = dataset if not count.dropped else dataset.select(np.flatnonzero(reasons == ""))
    return kept.remove_columns("drop_reason"), count


def refuse_empty(
    dataset: Dataset, sources: Mapping[str, SourceCount], split: str, longest: int, limit: int | None
) -> None:
    """
    Refuse to go on with no row.

    Raises:
        `DataError`: Every row was dropped; the message says for which reasons, and the lengths that were met.
    """
    if len(dataset):
        return
    dropped = sum((source.dropped for source in sources.values()), Counter[str]())
    rows = sum(source.rows for source in sources.values())
    reasons = ", ".join(f"{reason}: {count}" for reason, count in dropped.most_common()) or "there was none"
    raise DataError(
        f"{split}: 0 of {rows} pairs are left ({reasons}; shortest pair {longest} tokens, max_length {limit}). "
        "Raise `max_length`, or look at the data."
    )


def split_report(dataset: Dataset, sources: Mapping[str, SourceCount], max_length: int | None) -> dict[str, Any]:
    """
    Describe one split after tokenisation.

    Returns:
        `dict`: `rows`, `kept`, `dropped`, the same by source under `sources`, `tokens` (mean and quantiles of prompt,
        chosen and rejected completion), `shared_prompt_tokens` (share of all tokens that computing each prompt once
        would save), `longer_is_chosen` (accuracy of preferring the longer completion, ties half), `max_length`.
    """
    table = dataset.with_format("arrow")
    prompt = np.asarray(table["prompt_length"][:]).astype(np.int64)
    sides = {
        side: np.asarray(pc.list_value_length(_column(dataset, f"{side}_input_ids"))).astype(np.int64)
        for side in ("chosen", "rejected")
    }
    completions = {side: lengths - prompt for side, lengths in sides.items()}
    total = SourceCount(
        sum(source.rows for source in sources.values()),
        sum((source.dropped for source in sources.values()), Counter[str]()),
    )
    longer = np.sign(completions["chosen"] - completions["rejected"])
    return {
        **total.as_dict(),
        "sources": {name: source.as_dict() for name, source in sources.items()},
        "tokens": {name: _quantiles(values) for name, values in {"prompt": prompt, **completions}.items()},
        "shared_prompt_tokens": round(float(prompt.sum() / (sides["chosen"].sum() + sides["rejected"].sum())), 4),
        "longer_is_chosen": round(float((longer + 1).mean() / 2), 4),
        "max_length": max_length,
    }


def _column(dataset: Dataset, name: str) -> Any:
    return dataset.with_format("arrow").select_columns(name)[:][name]


def _quantiles(values: np.ndarray) -> dict[str, float]:
    return {
        "mean": round(float(values.mean()), 1),
        **{f"p{q}": int(np.percentile(values, q, method="inverted_cdf")) for q in (5, 50, 95)},
        "max": int(values.max()),
    }
