"""From raw preference rows to tokenised ones: every row that comes in goes out with its ids or with a drop reason."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from datasets import Dataset, Features, IterableDataset
from transformers import PreTrainedTokenizerBase

from hf_reward.data.accounts import SourceCount
from hf_reward.data.columns import ACCOUNTING_COLUMNS, NEUTRAL, NOTES, PREPARED_COLUMNS, make_features
from hf_reward.data.encoding import EncodedRow, RowEncoder
from hf_reward.data.formats import PreferenceRow, TokenRow
from hf_reward.data.lengths import LengthLimits, shorter_prompts
from hf_reward.data.prompts import find_prompt_end, is_empty, key_of_prompt, shared_prefix, two_are_equal
from hf_reward.data.reading import Dropped, RowReader
from hf_reward.errors import DataError


logger = logging.getLogger(__name__)

D = TypeVar("D", Dataset, IterableDataset)
Entry = PreferenceRow | TokenRow | Dropped

# Raise it when the same rows and settings give other columns than before: it is part of the key of the cache.
TOKENIZATION_VERSION = 1

_BAD_ROWS_SAID = 3


@dataclass(frozen=True)
class RowRules:
    """
    What is asked of a single row.

    Attributes:
        limits (`LengthLimits`): The length policy.
        escape_special_tokens (`bool`): Special tokens in the content become ordinary text.
        drop_identical (`bool`): Rows with two equal completions are dropped.
        drop_empty (`bool`): Rows with an empty completion are dropped.
        as_groups (`bool`): Pairs are written as groups of two, since another source of the split has larger groups.
    """

    limits: LengthLimits = field(default_factory=LengthLimits)
    escape_special_tokens: bool = False
    drop_identical: bool = True
    drop_empty: bool = True
    as_groups: bool = False


def is_prepared(columns: list[str] | None) -> bool:
    """Whether a dataset with these columns went through tokenisation here already."""
    return columns is not None and set(PREPARED_COLUMNS) <= set(columns)


def tokenize_dataset(
    dataset: D,
    reader: RowReader,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    rules: RowRules,
    num_proc: int | None = None,
    file: Path | None = None,
    fingerprint: str | None = None,
) -> D:
    """
    Tokenise every row of a preference dataset; rows that cannot be used say why.

    Args:
        dataset (`Dataset` or `IterableDataset`): Raw rows.
        reader (`RowReader`): Reads them; see `hf_reward.data.reading`.
        tokenizer (`PreTrainedTokenizerBase`): A tokenizer that went through `prepare_tokenizer`.
        name (`str`): Name of the source, for messages.
        rules (`RowRules`): Length policy and filters of single rows.
        num_proc (`int`, *optional*): Worker processes.
        file (`Path`, *optional*): Where the rows are written; defaults to the place that the library chooses.
        fingerprint (`str`, *optional*): Fingerprint of the result.

    Returns:
        The dataset with `chosen_input_ids` and `rejected_input_ids` (for ranked groups `completion_input_ids`),
        `prompt_length` (tokens), `length` (tokens of the longest side), `prompt_key` (equal for equal prompts),
        `drop_reason` (empty for rows to keep), what filters and report need, and `margin`, `weight`,
        `chosen_probability`, `tie` and `scores` where the source has them.

    Raises:
        `DataError`: There is no row, or one that is not a preference pair; the message names the source and the row.
    """
    if isinstance(dataset, Dataset) and len(dataset) == 0:
        raise DataError(f"{name}: there are no rows (expected preference pairs). Give a set that is not empty.")
    columns = list(dataset.column_names or next(iter(dataset)))
    tokenize = RowTokenizer(tokenizer, name, reader, rules)
    options: dict[str, Any] = {"remove_columns": columns, "features": tokenize.features}
    if isinstance(dataset, IterableDataset):
        return dataset.map(tokenize, batched=True, with_indices=True, **options)
    return dataset.map(
        tokenize,
        batched=True,
        with_indices=True,
        num_proc=num_proc if num_proc and num_proc > 1 else None,
        # The library's own cache does not see what a tokenizer holds; nothing stale may come out of it.
        load_from_cache_file=False,
        cache_file_name=None if file is None else str(file),
        new_fingerprint=fingerprint,
        desc=f"Tokenizing {name}",
        **options,
    )


def keep_usable(dataset: IterableDataset, count: SourceCount | None = None) -> IterableDataset:
    """Leave out the rows of a tokenised stream that have a drop reason, and count all of them as they are read."""

    def usable(reason: str) -> bool:
        if count is not None:
            count.rows += 1
            count.dropped.update([reason] if reason else [])
        return reason == ""

    return dataset.filter(usable, input_columns="drop_reason").remove_columns(list(ACCOUNTING_COLUMNS))


@dataclass(frozen=True)
class RowTokenizer:
    """Tokenises batches of rows; what `datasets.map` calls (and pickles, when several processes work)."""

    tokenizer: PreTrainedTokenizerBase
    name: str
    reader: RowReader
    rules: RowRules = field(default_factory=RowRules)
    _said: list[str] = field(default_factory=list, repr=False, compare=False)

    @cached_property
    def features(self) -> Features:
        """Columns and types of the rows that come out."""
        extra = (*self.reader.extra_columns, *(["subset"] if "subset" in self.reader.columns else []))
        return make_features(self.reader.keeps_groups or self.rules.as_groups, extra)

    @cached_property
    def _subset_column(self) -> str:
        """What the source itself calls the column `subset`."""
        names = dict(self.reader.options.column_map)
        return next((theirs for theirs, ours in names.items() if ours == "subset"), "subset")

    @cached_property
    def _encode(self) -> RowEncoder:
        return RowEncoder(self.tokenizer, self.name, self.rules.escape_special_tokens)

    def __call__(self, batch: Mapping[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        """One batch of raw rows, by column, and their numbers in the dataset, which name rows without `source_row`."""
        entries: list[Entry] = []
        numbers: list[int] = []
        places: list[str] = []
        subsets: list[str] = []
        for position, index in enumerate(indices):
            row = {column: values[position] for column, values in batch.items()}
            number = row.get("source_row") or index + 1
            place = self.reader.place(row, f"{self.name}, row {number}")
            found = self.reader(row, place)
            entries += found
            numbers += [number] * len(found)
            places += [place] * len(found)
            subsets += [str(row.get(self._subset_column) or "")] * len(found)
        encoded = self._ids(entries, places)
        rows = [
            self._row(entry, ids, place) | {"source_row": number, "subset": subset}
            for entry, ids, place, number, subset in zip(entries, encoded, places, numbers, subsets, strict=True)
        ]
        return {column: [row[column] for row in rows] for column in self.features}

    def _ids(self, entries: list[Entry], places: list[str]) -> list[EncodedRow | DataError | None]:
        """Token ids of every entry; `None` for those that have been dropped already."""
        texts = [number for number, entry in enumerate(entries) if isinstance(entry, PreferenceRow)]
        rows = [entry for entry in entries if isinstance(entry, PreferenceRow)]
        encoded: dict[int, EncodedRow | DataError] = {}
        if rows:
            encoded |= zip(texts, self._encode(rows, [places[number] for number in texts]), strict=True)
        for number, entry in enumerate(entries):
            if isinstance(entry, TokenRow):
                self._check_vocabulary(entry, places[number])
                encoded[number] = EncodedRow([], entry.completions)
        return [encoded.get(number) for number in range(len(entries))]

    def _check_vocabulary(self, entry: TokenRow, place: str) -> None:
        largest = max(map(max, entry.completions))
        if largest >= self._vocabulary_size:
            raise DataError(
                f"{place}: found the token id {largest} (expected ids below {self._vocabulary_size}, the size of the "
                "tokenizer's vocabulary). Tokenise the rows with this tokenizer, or give the tokenizer that was used."
            )

    @cached_property
    def _vocabulary_size(self) -> int:
        return len(self.tokenizer)

    def _row(self, entry: Entry, ids: EncodedRow | DataError | None, place: str) -> dict[str, Any]:
        if isinstance(ids, DataError):
            if self.reader.options.on_bad_row == "error":
                raise ids
            entry = Dropped("bad_row", str(ids))
        if isinstance(entry, Dropped):
            if entry.reason == "bad_row" and len(self._said) < _BAD_ROWS_SAID:
                self._said.append(entry.message)
                logger.warning("dropped: %s", entry.message)
            return self._columns(entry, [[], []], 0, entry.reason, ())
        assert isinstance(ids, EncodedRow)
        sides, notes = ids.sides, [*ids.notes]
        prompt_length = find_prompt_end(entry, ids, notes)
        if entry.margin is not None and entry.margin < 0:
            notes.append("negative_margin")
        if entry.left_out:
            notes.append("completions_left_out")
        reason = self._drop_reason(entry, prompt_length, sides)
        overlong = "" if reason else self.rules.limits.reason(prompt_length, sides)
        if overlong and self.rules.limits.overlong == "truncate_prompt":
            shorter = self._shorten(entry, prompt_length, sides, place)
            if shorter is not None:
                prompt_length, sides = shorter
                notes.append("prompt_truncated")
                overlong = ""
        return self._columns(entry, sides, prompt_length, reason or overlong, notes, ids.sides)

    def _columns(
        self,
        entry: Entry,
        sides: list[list[int]],
        prompt_length: int,
        reason: str,
        notes: Iterable[str],
        whole: list[list[int]] | None = None,
    ) -> dict[str, Any]:
        """The columns of one row; its keys are those of the whole sides, so that shortening makes no duplicates."""
        keys = [hash(tuple(side)) for side in whole or sides]
        shared = shared_prefix(sides)
        set_key = hash(frozenset(keys))
        extra = {column: getattr(entry, column, NEUTRAL[column]) for column in self.reader.extra_columns}
        return extra | {
            "chosen_input_ids": sides[0],
            "rejected_input_ids": sides[-1],
            "completion_input_ids": sides,
            "prompt_length": prompt_length,
            "length": max(map(len, sides)),
            "prompt_key": key_of_prompt(entry, whole or sides, set_key),
            "shared_prefix_length": shared,
            "chosen_length": len(sides[0]),
            "rejected_length": len(sides[-1]),
            "group_tokens": sum(map(len, sides)),
            "group_size": len(sides),
            "order_key": hash(tuple(keys)),
            "set_key": set_key,
            "notes": sum(1 << NOTES.index(note) for note in set(notes)),
            "drop_reason": reason,
        }

    def _drop_reason(self, entry: PreferenceRow | TokenRow, prompt_length: int, sides: list[list[int]]) -> str:
        if not all(sides):
            return "empty"
        if self.rules.drop_empty and isinstance(entry, PreferenceRow) and any(map(is_empty, entry.completions)):
            return "empty"
        if self.rules.drop_identical and two_are_equal(sides):
            return "identical"
        if any(self.tokenizer.pad_token_id in side[prompt_length:] for side in sides):
            return "pad_token_in_completion"
        return ""

    def _shorten(
        self, entry: PreferenceRow | TokenRow, prompt_length: int, sides: list[list[int]], place: str
    ) -> tuple[int, list[list[int]]] | None:
        """Prompt length and sides with a shorter prompt and the same completions, if there is such a row that fits."""
        limits = self.rules.limits
        if isinstance(entry, TokenRow) or not isinstance(entry.prompt, list):
            head = int(sides[0][0] == self.tokenizer.bos_token_id and prompt_length > 0)
            return limits.shorten(prompt_length, sides, head)
        completions = [side[prompt_length:] for side in sides]
        for prompt in shorter_prompts(entry.prompt):
            (ids,) = self._encode([replace(entry, prompt=prompt)], [place])
            if isinstance(ids, DataError):
                continue
            shorter = find_prompt_end(entry, ids, [])
            # A template may render a completion in another way after another prompt; then the row is left alone.
            same = [side[shorter:] for side in ids.sides] == completions
            if same and not limits.reason(shorter, ids.sides):
                return shorter, ids.sides
        return None
