"""From the rows of a source to preference rows: the reader of its format, found once and applied to every row."""

import itertools
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from hf_reward.data.checks import listed
from hf_reward.data.formats import PreferenceRow, TokenRow, check_columns, has_token_ids, parse_row, parse_token_row
from hf_reward.data.ranked import Dropped, RankedRule
from hf_reward.data.schemas import FORMATS, SCHEMAS, detect_format, first_form, score_columns
from hf_reward.errors import ConfigurationError, DataError


if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

__all__ = ["Dropped", "ReadingOptions", "RowReader", "detect_reader", "make_reader"]

Entry = PreferenceRow | TokenRow | Dropped

# Columns that the loader adds: the number of a row, in streams of several files the file, and why a line of a file
# could not be read at all.
ROW_NUMBER, ROW_FILE, ROW_ERROR = OWN_COLUMNS = ("source_row", "source_file", "source_error")
_OPTIONAL = ("margin", "weight", "chosen_probability", "tie", "scores")
_STATED = _OPTIONAL[:4]
_FIRST_ROWS = 16
_FORMS = {"text": "messages", "messages": "text"}


@dataclass(frozen=True)
class ReadingOptions:
    """
    What is asked of the rows of a source.

    Attributes:
        column_map (`dict[str, str | None]`): Our name for a column, by its own; `None` leaves a column out.
        dataset_format (`str`, *optional*): One of `FORMATS`; found from the columns and the first row if not given.
        on_bad_row (`str`): Whether a row that cannot be read is an `"error"`, or is counted as `bad_row` (`"drop"`).
        score_column (`str`, *optional*): Which of several scores of a completion counts.
        weight (`float`, *optional*): What the weights of the rows are multiplied by.
        ranked (`RankedRule`): What becomes of ranked completions and of scores.
    """

    column_map: dict[str, str | None] = field(default_factory=dict)
    dataset_format: str | None = None
    on_bad_row: str = "error"
    score_column: str | None = None
    weight: float | None = None
    ranked: RankedRule = field(default_factory=RankedRule)


@dataclass(frozen=True)
class RowReader:
    """
    Reads the rows of one source; a pure function of a row and its place.

    Attributes:
        format (`str`): One of `FORMATS`.
        columns (`tuple[str, ...]`): The columns of the source, under our names.
        form (`str`, *optional*): `"text"` or `"messages"`, as the first row has it.
        options (`ReadingOptions`): What is asked of the rows.
        files (`tuple[tuple[int, str], ...]`): For a source of several files, how many rows stand before each, and its
            name, so that messages name the file and the row in it.

    Examples:

    >>> row = {"prompt": "Hi", "completions": ["a", "b", "c"], "scores": [1.0, 3.0, 2.0]}
    >>> reader = make_reader(list(row), row, "here", ReadingOptions(ranked=RankedRule("best_vs_each")))
    >>> [pair.completions for pair in reader(row, "row 1")]
    [['b', 'c'], ['b', 'a']]
    """

    format: str
    columns: tuple[str, ...]
    form: str | None = None
    options: ReadingOptions = field(default_factory=ReadingOptions)
    files: tuple[tuple[int, str], ...] = ()

    def __call__(self, row: Mapping[str, Any], place: str) -> list[Entry]:
        """
        The pairs or groups that a row gives, one for most formats, and what is left out; never an empty list.

        Raises:
            `DataError`: The row cannot be read, and `on_bad_row` is `"error"`.
        """
        place = self.place(row, place)
        try:
            if row.get(ROW_ERROR) is not None:
                raise DataError(str(row[ROW_ERROR]))
            return self._read(self._renamed(row, place), place)
        except DataError as error:
            if self.options.on_bad_row == "error":
                raise
            return [Dropped("bad_row", str(error))]

    @property
    def has_token_ids(self) -> bool:
        """Whether the rows are tokenised already."""
        return self.format == "tokens"

    @property
    def keeps_groups(self) -> bool:
        """Whether rows can be groups of more than two completions."""
        grouped = SCHEMAS[self.format].groups or "completion_input_ids" in self.columns
        return grouped and self.options.ranked.ranked_to_pairs == "none"

    @property
    def extra_columns(self) -> tuple[str, ...]:
        """The optional columns that the rows can carry: some of margin, weight, chosen_probability, tie, scores."""
        has = {name for name in _OPTIONAL if name in self.columns}
        if SCHEMAS[self.format].scored or score_columns(self.columns):
            has.add("scores")
        if self.options.weight is not None:
            has.add("weight")
        if self.options.ranked.margin_from_scores:
            has.add("margin")
        if "scores" in has and self.options.ranked.equal_scores == "tie" and not self.keeps_groups:
            has.add("tie")  # groups leave equal completions out instead
        return tuple(name for name in _OPTIONAL if name in has)

    def place(self, row: Mapping[str, Any], otherwise: str) -> str:
        """The file of a row and its number there, where a source has several files."""
        number = row.get(ROW_NUMBER)
        if row.get(ROW_FILE) is not None:
            return f"{row[ROW_FILE]}, row {number}"
        if not self.files or number is None:
            return otherwise
        before, name = self.files[bisect_left(self.files, (number,)) - 1]
        return f"{name}, row {number - before}"

    def _renamed(self, row: Mapping[str, Any], place: str) -> dict[str, Any]:
        renamed = rename(row, self.options.column_map) if self.options.column_map else dict(row)
        for name in _STATED:
            # In a stream the columns are those of the first row; a later row must have them, and no others.
            if name in self.columns:
                renamed.setdefault(name, None)
            elif renamed.get(name) is not None:
                raise DataError(
                    f"{place}: `{name}` is there (expected in all rows or in none, and the first row has none). Give "
                    "it to all rows, or leave the column out."
                )
        return renamed

    def _read(self, row: dict[str, Any], place: str) -> list[Entry]:
        schema = SCHEMAS[self.format]
        missing = [name for name in schema.needs if name not in row]
        if missing:
            raise DataError(
                f"{place}: no column {listed(missing)} (columns found: {listed(row)}; the format {self.format} has "
                f"{listed(schema.needs)}). Correct the row, or name another `dataset_format`."
            )
        plain = schema.plain(row, place, self.options.score_column)
        parsed = parse_token_row(plain, place) if self.has_token_ids else parse_row(self._checked(plain, place), place)
        if self.options.weight is not None:
            parsed = _weighted(parsed, self.options.weight)
        labelled = schema.labelled and "completion_input_ids" not in row
        return self.options.ranked.apply(parsed, labelled, place)

    def _checked(self, row: dict[str, Any], place: str) -> dict[str, Any]:
        """Sees that a plain row is text where the first is, and messages where the first is."""
        if self.form is not None and first_form(row) == _FORMS[self.form]:
            column = "chosen" if "chosen" in row else "completions"
            raise DataError(
                f"{place}: `{column}` is {_FORMS[self.form]}, in the first row it is {self.form} (expected one form "
                "in all rows). Write every row in the same form."
            )
        return row


def make_reader(
    columns: list[str], first: Mapping[str, Any], name: str, options: ReadingOptions | None = None
) -> RowReader:
    """
    The reader of a source with these columns and this first row.

    Raises:
        `DataError`: The columns are those of no format, or not those of the format that was named.
        `ConfigurationError`: `column_map` names a column that is not there.
    """
    options = options or ReadingOptions()
    ours = [column for column in columns if column not in OWN_COLUMNS]
    unknown = [column for column in options.column_map if column not in ours]
    if unknown:
        raise ConfigurationError(f"{name}: `column_map`: found {listed(unknown)}; expected some of {listed(ours)}")
    renamed = list(rename(dict.fromkeys(ours), options.column_map))
    row = rename({key: first.get(key) for key in ours}, options.column_map)
    found = options.dataset_format or detect_format(renamed, row)
    if found is None:
        check_columns(renamed, name)
        raise AssertionError("columns of a pair have a format")
    missing = [column for column in SCHEMAS[found].needs if column not in renamed]
    if missing or (found == "tokens" and has_token_ids(renamed) is None):
        raise DataError(
            f"{name}: no column {listed(missing or ['chosen_input_ids'])} (columns found: {listed(renamed)}), which "
            f"the format {found} has. Name one of {', '.join(FORMATS)} in `dataset_format`, or rename by `column_map`."
        )
    # Other formats have one form only, or turn theirs into messages.
    form = first_form(row) if found in ("pairs", "ranked") else None
    return RowReader(found, tuple(renamed), form, options)


def detect_reader(dataset: "Dataset | IterableDataset", name: str, options: ReadingOptions | None = None) -> RowReader:
    """
    The reader of a dataset, from its columns and its first row.

    Raises:
        `DataError`: The dataset is an empty stream, or its columns are those of no format.
    """
    rows = list(itertools.islice(dataset, _FIRST_ROWS))
    columns = dataset.column_names or list({column: None for row in rows for column in row})
    if not columns:
        raise DataError(f"{name}: the stream is empty (expected preference pairs). Give a set with rows.")
    column_map = (options or ReadingOptions()).column_map
    # The first row that can tell the form; one that is broken cannot.
    telling = (row for row in rows if row.get(ROW_ERROR) is None and first_form(rename(row, column_map)) is not None)
    return make_reader(list(columns), next(telling, rows[0] if rows else {}), name, options)


def rename(row: Mapping[str, Any], column_map: Mapping[str, str | None]) -> dict[str, Any]:
    """
    A row under our names; a column that was mapped wins over one that has the name already.

    Examples:

    >>> rename({"good": 1, "chosen": 2, "id": 3}, {"good": "chosen", "id": None})
    {'chosen': 1}
    """
    kept = {key: value for key, value in row.items() if key not in column_map}
    return kept | {ours: row[theirs] for theirs, ours in column_map.items() if ours is not None and theirs in row}


def _weighted(row: PreferenceRow | TokenRow, factor: float) -> PreferenceRow | TokenRow:
    return replace(row, weight=factor * (1.0 if row.weight is None else row.weight))
