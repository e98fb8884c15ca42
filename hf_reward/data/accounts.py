"""The rows of a split and what became of each: kept, or dropped for a reason; in memory only as numbers."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, concatenate_datasets
from datasets.table import InMemoryTable

from hf_reward.data.columns import ACCOUNTING_COLUMNS, NOTES


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


@dataclass
class SplitRows:
    """
    The tokenised rows of a split, and for each of them its source and whether it is kept.

    Attributes:
        rows (`Dataset`): All rows, source after source, the dropped ones too.
        names (`list[str]`): Names of the sources.
        source (`np.ndarray`): For each row the number of its source in `names`.
        reason (`np.ndarray`): For each row the number of its drop reason in `reasons`; 0 for rows to keep.
        reasons (`list[str]`): The drop reasons; the first is empty.
        member (`np.ndarray`): The rows that belong to this split; the others were set apart for evaluation.
        extra_notes (`Counter`): What is worth counting beyond the notes of the rows.
    """

    rows: Dataset
    names: list[str]
    source: np.ndarray
    reason: np.ndarray
    reasons: list[str]
    member: np.ndarray
    extra_notes: Counter[str] = field(default_factory=Counter)

    @classmethod
    def join(cls, parts: Sequence[Dataset], names: Sequence[str]) -> "SplitRows":
        """Put the tokenised rows of several sources, which have the same columns, one after another."""
        rows = concatenate_datasets(list(parts)) if len(parts) > 1 else parts[0]
        source = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts])
        reason, reasons = _read_reasons(rows)
        return cls(rows, list(names), source, reason, reasons, np.ones(len(rows), dtype=bool))

    @property
    def kept(self) -> np.ndarray:
        """Mask of the rows of this split that are not dropped."""
        kept: np.ndarray = self.member & (self.reason == 0)
        return kept

    def drop(self, rows: np.ndarray, reason: str) -> int:
        """Drop those of the rows (a mask) that are kept so far; returns their number."""
        dropped = rows & self.kept
        if reason not in self.reasons:
            self.reasons.append(reason)
        self.reason[dropped] = self.reasons.index(reason)
        return int(dropped.sum())

    def set_apart(self, rows: np.ndarray) -> "SplitRows":
        """Move rows (a mask) that are kept into a split of their own."""
        apart = rows & self.kept
        self.member &= ~apart
        return SplitRows(self.rows, self.names, self.source, self.reason, self.reasons, apart)

    def number(self, name: str, rows: np.ndarray) -> np.ndarray:
        """A column of numbers for some rows (a mask); no more than these are read into memory."""
        column = self.rows.data.column(name)
        found = np.empty(np.count_nonzero(rows), dtype=column.type.to_pandas_dtype())
        read, filled = 0, 0
        for chunk in column.chunks:
            numbers = chunk.to_numpy()[rows[read : read + len(chunk)]]
            found[filled : filled + len(numbers)] = numbers
            read, filled = read + len(chunk), filled + len(numbers)
        return found

    def of_kept(self, name: str) -> np.ndarray:
        """A column of numbers, for the rows that are kept."""
        return self.number(name, self.kept)

    def counts(self) -> dict[str, SourceCount]:
        """Rows in and out by source."""
        table = np.zeros((len(self.names), len(self.reasons)), dtype=np.int64)
        np.add.at(table, (self.source[self.member], self.reason[self.member]), 1)
        return {
            name: SourceCount(
                int(row.sum()), Counter({why: int(n) for why, n in zip(self.reasons, row, strict=True) if why and n})
            )
            for name, row in zip(self.names, table, strict=True)
            if row.sum()
        }

    def notes(self) -> dict[str, int]:
        """How many of the rows that came in are worth a note, by note."""
        bits = self.number("notes", self.member)
        counted = Counter({name: int((bits >> place & 1).sum()) for place, name in enumerate(NOTES)})
        return {name: count for name, count in sorted((counted + self.extra_notes).items()) if count}

    def dataset(self) -> Dataset:
        """The rows that are kept, with the columns of training alone."""
        rows, kept = self.rows.remove_columns(list(ACCOUNTING_COLUMNS)), self.kept
        if kept.all():
            return rows
        # `select` would make a list of Python numbers first, with five times the memory of the numbers themselves.
        numbers = pa.array(np.flatnonzero(kept).view(np.uint64))
        indices = InMemoryTable.from_arrays([numbers], names=["indices"])
        fingerprint = hashlib.sha256(rows._fingerprint.encode() + kept.tobytes()).hexdigest()[:32]
        return Dataset(rows.data, rows.info, rows.split, indices, fingerprint)


def _read_reasons(dataset: Dataset) -> tuple[np.ndarray, list[str]]:
    """For each row the number of its drop reason, and the reasons that they point into."""
    names, codes = [""], []
    for chunk in dataset.data.column("drop_reason").chunks:
        encoded = chunk.dictionary_encode()
        words = encoded.dictionary.to_pylist()
        names += [word for word in words if word not in names]
        places = np.array([names.index(word) for word in words], dtype=np.int8)
        codes.append(places[encoded.indices.to_numpy()])
    return np.concatenate(codes), names
