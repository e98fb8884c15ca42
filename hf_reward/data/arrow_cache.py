"""Text files as Arrow files in the cache, keyed by their content: read once, mapped into memory, never all in it."""

import json
import re
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_reward.data.lines import read_rows
from hf_reward.errors import DataError
from hf_reward.files import whole_or_absent, write_json


if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

# Part of the key under which read rows are kept: raise it when the reader gives other rows for the same bytes.
_READER_VERSION = 2
_BATCH = 1000
_LONG_NUMBER = re.compile(r"\d{19}")

# The type of each column; `None` for one of no simple type, which is kept as JSON text.
Types = dict[str, "pa.DataType | None"]
Columns = dict[str, list[Any]]


def read_text_files(paths: list[Path], content: str, keep_bad: bool) -> tuple["Dataset", list[int]]:
    """
    Reads JSON or CSV files, or maps what an earlier run read from the same bytes.

    Args:
        paths (`list[Path]`):
            The files, in order.
        content (`str`):
            A hash of their bytes.
        keep_bad (`bool`):
            Whether a line that cannot be read becomes a row with `source_error`.

    Returns:
        The rows with `source_row`, and how many rows stand before each file.

    Raises:
        `DataError`: A file is empty, or a line cannot be read.
    """
    import datasets
    from datasets.table import MemoryMappedTable

    key = f"{content}-{_READER_VERSION}{'-bad' if keep_bad else ''}"
    path = Path(datasets.config.HF_DATASETS_CACHE) / "hf_reward" / f"{key}.arrow"
    offsets = path.with_suffix(".json")
    if not path.exists():
        with whole_or_absent(path) as partial:
            write_json(_write(paths, keep_bad, partial), offsets)
    dataset = datasets.Dataset(MemoryMappedTable.from_file(str(path)), fingerprint=key)
    return dataset, json.loads(offsets.read_text(encoding="utf-8"))


def _write(paths: list[Path], keep_bad: bool, target: Path) -> list[int]:
    """Writes the rows with the types of the first batch, and once more with those of all where later ones differ."""
    types: Types = {}
    while True:
        fits, offsets = _write_with(types, paths, keep_bad, target)
        if fits:
            return offsets


def _write_with(types: Types, paths: list[Path], keep_bad: bool, target: Path) -> tuple[bool, list[int]]:
    """Writes batch by batch; after a batch that the types do not hold, only widens the types, to the end."""
    import pyarrow as pa

    offsets: list[int] = []
    batches = _batches(paths, keep_bad, offsets)
    first = next(batches)
    _widen(types, first)
    schema, fits = _schema(types), True
    with pa.ipc.new_stream(str(target), schema) as writer:
        for batch in chain([first], batches):
            fits = not _widen(types, batch) and fits
            arrays = _arrays(types, batch) if fits else None
            fits = arrays is not None
            if arrays is not None:
                writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
    return fits, offsets


def _batches(paths: list[Path], keep_bad: bool, offsets: list[int]) -> Iterator[Columns]:
    """Yields columns, with row numbers over all files, and appends to `offsets` how many stand before each file."""
    before = 0
    for path in paths:
        offsets.append(before)
        rows = read_rows(path, keep_bad)
        number = 0
        while batch := list(islice(rows, _BATCH)):
            number = batch[-1][0]
            names = {name: None for _, row in batch for name in row}
            columns: Columns = {name: [row.get(name) for _, row in batch] for name in names}
            yield columns | {"source_row": [before + number for number, _ in batch]}
        if not number:
            raise DataError(f"{path.name}: the file is empty (expected preference pairs). Give it rows.")
        before += number


def _widen(types: Types, columns: Columns) -> bool:
    """Makes the types hold these values; says whether that changed them."""
    import pyarrow as pa

    before = dict(types)
    for column, values in columns.items():
        known = types.get(column, pa.null())
        if known is None:
            continue
        try:
            found = _simple(pa.infer_type(values))
        except (pa.ArrowException, OverflowError):  # kinds that have no common type
            found = None
        types[column] = _common(known, found)
    return types != before


def _simple(kind: "pa.DataType") -> "pa.DataType | None":
    """The type by which a column is kept, if it is one that gives back just what was read."""
    import pyarrow as pa

    if kind in (pa.null(), pa.bool_(), pa.int64(), pa.float64(), pa.string()):
        return kind
    if pa.types.is_list(kind):
        inner = _simple(kind.value_type)
        return None if inner is None else pa.list_(inner)
    if pa.types.is_struct(kind) and all(field.type in (pa.string(), pa.null()) for field in kind):
        names = {field.name for field in kind}
        known = next((turn for turn in (("role", "content"), ("from", "value")) if names == set(turn)), None)
        return None if known is None else pa.struct([(name, pa.string()) for name in known])
    return None


def _common(one: "pa.DataType | None", two: "pa.DataType | None") -> "pa.DataType | None":
    import pyarrow as pa

    if one is None or two is None:
        return None
    if one == two or pa.types.is_null(two):
        return one
    if pa.types.is_null(one):
        return two
    if {one, two} == {pa.int64(), pa.float64()}:
        return pa.float64()
    if pa.types.is_list(one) and pa.types.is_list(two):
        inner = _common(one.value_type, two.value_type)
        return None if inner is None else pa.list_(inner)
    return None


def _arrays(types: Types, columns: Columns) -> "list[pa.Array] | None":
    """The columns of a batch; `None`, and a wider type, where a value does not fit after all."""
    import pyarrow as pa

    arrays = []
    for column, kind in types.items():
        values = columns.get(column) or [None] * len(columns["source_row"])
        if kind is None:
            texts = [None if value is None else _json_text(value) for value in values]
            arrays.append(pa.ExtensionArray.from_storage(pa.json_(), pa.array(texts, pa.string())))
            continue
        try:
            arrays.append(pa.array(values, kind))
        except (pa.ArrowException, OverflowError):  # an integer that a float64 beside it cannot hold
            types[column] = None
            return None
    return arrays


def _json_text(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return json.dumps(_readable(value), ensure_ascii=False) if _LONG_NUMBER.search(text) else text


def _readable(value: Any) -> Any:
    """A value with integers of more than 64 bits as text: the library cannot read such numbers back."""
    if isinstance(value, dict):
        return {key: _readable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_readable(item) for item in value]
    return str(value) if type(value) is int and abs(value) >= 2**63 else value


def _schema(types: Types) -> "pa.Schema":
    from datasets import Features

    return Features({column: _feature(kind) for column, kind in types.items()}).arrow_schema


def _feature(kind: "pa.DataType | None") -> Any:
    import pyarrow as pa
    from datasets import Json, List, Value

    if kind is None:
        return Json()
    if pa.types.is_list(kind):
        return List(_feature(kind.value_type))
    if pa.types.is_struct(kind):
        return {field.name: Value("string") for field in kind}
    return Value({"double": "float64"}.get(str(kind), str(kind)))
