"""Data files opened as one dataset or stream: text files by our reader, Parquet and Arrow files by the library."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hf_reward.data.arrow_cache import read_text_files
from hf_reward.data.lines import CSV_ENDINGS, JSON_ENDINGS, read_rows
from hf_reward.errors import DataError


if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

D = TypeVar("D", "Dataset", "IterableDataset")

TEXT_ENDINGS = (*JSON_ENDINGS, *CSV_ENDINGS)
FILE_ENDINGS = (*TEXT_ENDINGS, ".parquet", ".arrow")

Files = tuple[tuple[int, str], ...]


def open_files(
    paths: list[Path], root: Path, streaming: bool = False, keep_bad: bool = False
) -> "tuple[Dataset | IterableDataset, Files]":
    """
    Opens files of one kind as one dataset.

    Rows are what the files hold now: what is cached is keyed by their bytes, not by their dates.

    Args:
        paths (`list[Path]`):
            The files, in order.
        root (`Path`):
            The folder in which they are named, when there are several.
        streaming (`bool`, *optional*, defaults to `False`):
            Whether to read them while training.
        keep_bad (`bool`, *optional*, defaults to `False`):
            Whether lines that cannot be read become rows with `source_error`.

    Returns:
        The dataset with the column `source_row`, and for several files the rows before each, and its name.

    Raises:
        `DataError`: The files are of different kinds, empty, or cannot be read.
    """
    names = [path.relative_to(root).as_posix() for path in paths]
    for kind in ("parquet", "arrow"):
        if all(path.suffix == f".{kind}" for path in paths):
            return _open_columns(kind, paths, names, streaming)
    for path in paths:
        if not path.name.endswith(TEXT_ENDINGS):
            raise DataError(
                f"{path.name}: cannot read this kind of file here (expected {', '.join(FILE_ENDINGS)}; in one source "
                "JSON and CSV, or Parquet, or Arrow). Convert the file."
            )
    if streaming:
        return _stream(paths, names, keep_bad), ()
    dataset, offsets = read_text_files(paths, content_hash(paths), keep_bad)
    return dataset, _files(offsets, names)


def number_rows(dataset: D) -> D:
    """The dataset with the column `source_row`, counted from 1."""
    import numpy as np
    from datasets import Dataset

    if "source_row" in (dataset.column_names or ()):
        dataset = dataset.remove_columns("source_row")
    if isinstance(dataset, Dataset):
        return dataset.add_column("source_row", np.arange(1, len(dataset) + 1))
    return dataset.map(_with_number, with_indices=True)


def content_hash(paths: list[Path]) -> str:
    """A hash of the bytes of files."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
        digest.update(path.name.partition(".")[2].encode())  # by which a file is told to be CSV, JSON or packed
    return digest.hexdigest()[:32]


def _open_columns(
    kind: str, paths: list[Path], names: list[str], streaming: bool
) -> "tuple[Dataset | IterableDataset, Files]":
    """Parquet and Arrow files, which the library maps into memory."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError
    from pyarrow import ArrowException

    # The library's cache knows a file by its path and date only; the name of the configuration is part of its key.
    key = f"content-{content_hash(paths)}"
    try:
        sizes = [_count_rows(kind, path) for path in paths]
        empty = [path.name for path, size in zip(paths, sizes, strict=True) if size == 0]
        if empty:
            raise DataError(f"{empty[0]}: the file is empty (expected preference pairs). Give it rows.")
        files = [str(path) for path in paths]
        loaded = load_dataset(kind, name=key, data_files=files, split="train", streaming=streaming)
    except (ArrowException, DatasetGenerationError) as error:
        reason = error.__cause__ or error
        shown = ", ".join(path.name for path in paths)
        raise DataError(f"{shown}: not readable as {kind.capitalize()}: {reason}. Write the file again.") from error
    offsets = [sum(sizes[:position]) for position in range(len(sizes))]
    return number_rows(loaded), _files(offsets, names)


def _count_rows(kind: str, path: Path) -> int:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    if kind == "parquet":
        return int(ParquetFile(path).metadata.num_rows)
    with pa.memory_map(str(path)) as source:
        try:
            return int(pa.ipc.open_file(source).read_all().num_rows)
        except pa.ArrowInvalid:  # the other of the two formats that are called Arrow
            return sum(batch.num_rows for batch in pa.ipc.open_stream(source))


def _files(offsets: list[int], names: list[str]) -> Files:
    return tuple(zip(offsets, names, strict=True)) if len(names) > 1 else ()


def _stream(paths: list[Path], names: list[str], keep_bad: bool) -> "IterableDataset":
    from datasets import IterableDataset

    files = [(str(path), name if len(names) > 1 else None) for path, name in zip(paths, names, strict=True)]
    return IterableDataset.from_generator(_streamed_rows, gen_kwargs={"files": files, "keep_bad": keep_bad})


def _streamed_rows(files: list[tuple[str, str | None]], keep_bad: bool) -> Iterator[dict[str, Any]]:
    for path, name in files:
        for number, row in read_rows(Path(path), keep_bad):
            place = {"source_row": number} | ({"source_file": name} if name else {})
            yield row | place


def _with_number(row: dict[str, Any], index: int) -> dict[str, Any]:
    return {"source_row": index + 1}
