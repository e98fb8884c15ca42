"""From the names in a recipe to datasets of raw rows: files, folders and Hub ids, and how much of each is taken."""

import difflib
import gzip
import hashlib
import json
import logging
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hf_reward.config.data_arguments import DataArguments, parse_amount
from hf_reward.data.formats import check_columns
from hf_reward.errors import ConfigurationError, DataError


if TYPE_CHECKING:
    from datasets import Dataset, Features

logger = logging.getLogger(__name__)

JSON_ENDINGS = (".jsonl", ".json", ".jsonl.gz", ".json.gz")
FILE_ENDINGS = (*JSON_ENDINGS, ".parquet")
# A name that ends like this is a file that was mistyped, never a dataset on the Hub.
_DATA_SUFFIXES = {".jsonl", ".json", ".gz", ".parquet", ".csv", ".tsv", ".txt", ".arrow"}

# Part of the key under which read rows are cached: raise it when the reader gives other rows for the same bytes.
_READER_VERSION = 1
_PAIR_COLUMNS = ("prompt", "chosen", "rejected")

# The word of a file name that puts it into a split, as the Hub reads the files of a dataset; other files are train.
_SPLIT_WORDS = {"validation": {"validation", "valid", "val", "dev"}, "test": {"test", "testing", "eval", "evaluation"}}


@dataclass
class Source:
    """One source of preference pairs, as many of its rows as were asked for.

    Attributes:
        name (`str`):
            The name for reports and messages: a Hub id, or the last part of a local path.
        dataset (`datasets.Dataset`):
            The rows with their own columns, and the column `source_row`: the number of the row in its source, from 1
            (for JSON Lines the number of the line; in a folder, counted over its files in the order of their names).
        split (`str`):
            The split that was taken.
    """

    name: str
    dataset: "Dataset"
    split: str


@dataclass
class _Request:
    """What a recipe asks of one source; without a split, the only one that there is."""

    name: str
    split: str | None
    amount: str = "1.0"
    config: str | None = None
    revision: str | None = None
    only_evaluation: bool = False


def load_sources(data_args: DataArguments, which: Literal["train", "eval"]) -> list[Source]:
    """Loads the training or the evaluation sources that a recipe names.

    A name is looked for as a local file, then as a local folder (from `save_to_disk`, or with data files), then on
    the Hub. Rows are what the file holds now: the cache is keyed by the bytes of the file, not by its date.

    Args:
        data_args (`DataArguments`):
            The names, splits and amounts.
        which (`str`):
            `"train"` or `"eval"`.

    Returns:
        `list[Source]`: the sources in their order; empty if no evaluation data was asked for.

    Raises:
        `DataError`: if a source is missing, cannot be read, or has no rows or not the columns of a pair.
        `ConfigurationError`: if no training source is named, or a source does not have the split.
    """
    if which == "train":
        data_args.check_sources()
    sources: list[Source] = []
    for request in _requests(data_args, which):
        dataset, split = _load(request)
        name = _short_name(request.name, [source.name for source in sources])
        check_columns([column for column in dataset.column_names if column != "source_row"], name)
        if len(dataset) == 0:
            raise DataError(f"{name}: the split {split} is empty (expected preference pairs). Give a set with rows.")
        sources.append(Source(name, take_amount(dataset, request.amount, name), split))
    return sources


def take_amount(dataset: "Dataset", amount: str, name: str) -> "Dataset":
    """Takes an amount of a dataset: whole copies in order, then the rest drawn without replacement.

    The draw is that of `numpy.random.RandomState(42)`, so an amount always names the same rows.

    Args:
        dataset (`datasets.Dataset`):
            The rows to take from.
        amount (`str`):
            With a dot, a fraction of the rows (`"0.5"` a random half, `"2.3"` two copies and 30 %); without a dot, a
            number of rows.
        name (`str`):
            The name of the source, for messages.

    Raises:
        `DataError`: if the fraction is so small that no row is left.
    """
    import numpy as np

    size, wanted = len(dataset), parse_amount(amount)
    count = int(wanted * size) if isinstance(wanted, float) else wanted
    if count == 0:
        raise DataError(f"{name}: the amount {amount} of {size} rows is 0 rows (expected at least 1). Raise it.")
    if isinstance(wanted, int) and wanted <= 10 and size > 100:
        logger.warning("%s: takes %d of %d rows; did you mean the fraction %d.0?", name, wanted, size, wanted)
    if count == size:
        return dataset
    copies, rest = divmod(count, size)
    drawn = np.random.RandomState(42).choice(size, size=rest, replace=False)
    return dataset.select(np.concatenate([np.tile(np.arange(size), copies), drawn]))


def _requests(data_args: DataArguments, which: str) -> list[_Request]:
    field = "dataset_mixer_list" if which == "train" else "dataset_mixer_eval_list"
    mixer, splits = getattr(data_args, field), getattr(data_args, f"{field}_splits")
    if mixer:
        return [_Request(*parts) for parts in zip(mixer[::2], splits, mixer[1::2], strict=True)]
    name = (data_args.eval_dataset_name if which == "eval" else None) or data_args.dataset_name
    split = data_args.dataset_test_split if which == "eval" else data_args.dataset_train_split
    only_evaluation = which == "eval" and data_args.eval_dataset_name is not None
    if name is None or (split is None and not only_evaluation):
        return []
    request = _Request(name, split, only_evaluation=only_evaluation)
    if name == data_args.dataset_name:
        request.config, request.revision = data_args.dataset_config, data_args.dataset_revision
    return [request]


def _load(request: _Request) -> tuple["Dataset", str]:
    path = Path(request.name).expanduser()
    if path.is_file():
        if request.split not in (None, "train") and not request.only_evaluation:
            raise ConfigurationError(
                f"{path.name}: found no split {request.split}; one file has the split train only. Ask for train, or "
                "name the file with the evaluation pairs in `eval_dataset_name`."
            )
        return _read_files([path]), request.split or "train"
    if path.is_dir():
        return _load_folder(path, request.split)
    if request.name.startswith((".", "/", "~")) or request.name.count("/") > 1 or path.suffix in _DATA_SUFFIXES:
        raise DataError(f"{request.name}: no such file or folder. {_nearest(path)}")
    return _load_from_hub(request)


def _nearest(path: Path) -> str:
    if not path.parent.is_dir():
        return f"The folder {path.parent} does not exist either; correct the path."
    near = difflib.get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()], n=1, cutoff=0.5)
    return f"Did you mean {path.parent / near[0]}?" if near else f"Nothing in {path.parent} has a name like it."


def _load_folder(path: Path, split: str | None) -> tuple["Dataset", str]:
    """Loads what `save_to_disk` wrote, or the data files of a folder, put into splits by their names."""
    from datasets import DatasetDict, load_from_disk

    if (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists():
        try:
            saved = load_from_disk(str(path))
        except (OSError, ValueError, KeyError, IndexError) as error:  # the library cannot load an empty set either
            raise DataError(
                f"{path.name}: not readable as a saved dataset, or saved empty: {error}. Save it again."
            ) from error
        datasets = dict(saved) if isinstance(saved, DatasetDict) else {"train": saved}
        chosen = _choose_split(list(datasets), split, path.name)
        return _number_rows(datasets[chosen]), chosen
    files: dict[str, list[Path]] = {}
    for file in sorted(path.rglob("*")):
        if file.name.endswith(FILE_ENDINGS) and not any(part.startswith(".") for part in file.relative_to(path).parts):
            words = set(re.split(r"[-._ 0-9]+", file.name.lower()))
            of_file = next((name for name, marks in _SPLIT_WORDS.items() if marks & words), "train")
            files.setdefault(of_file, []).append(file)
    if not files:
        raise DataError(f"{path.name}: the folder holds no data (expected {', '.join(FILE_ENDINGS)} files). Add some.")
    chosen = _choose_split(list(files), split, path.name)
    return _read_files(files[chosen]), chosen


def _load_from_hub(request: _Request) -> tuple["Dataset", str]:
    import datasets

    try:
        loaded = datasets.load_dataset(request.name, request.config, split=request.split, revision=request.revision)
    except OSError as error:  # no connection, offline mode, no such dataset, no access
        raise DataError(
            f"{request.name}: not a local file or folder, and not loaded from the Hub: {error}. Check the name; for a "
            "Hub dataset connect to the network (HF_HUB_OFFLINE off) and log in if it is gated; for local data give "
            "its path."
        ) from error
    except ValueError as error:  # an unknown split or configuration: the message lists those that exist
        raise ConfigurationError(f"{request.name}: {error}") from error
    if isinstance(loaded, datasets.DatasetDict):
        chosen = _choose_split(list(loaded), None, request.name)
        return _number_rows(loaded[chosen]), chosen
    return _number_rows(loaded), str(request.split)


def _choose_split(found: list[str], asked: str | None, name: str) -> str:
    if asked is None and len(found) == 1:
        return found[0]
    if asked not in found:
        problem = "has several splits" if asked is None else f"found no split {asked}"
        raise ConfigurationError(f"{name}: {problem}; expected one of {', '.join(found)}. Name one of them.")
    return asked


def _number_rows(dataset: "Dataset") -> "Dataset":
    import numpy as np

    if "source_row" in dataset.column_names:
        dataset = dataset.remove_columns("source_row")
    return dataset.add_column("source_row", np.arange(1, len(dataset) + 1))


def _short_name(name: str, taken: list[str]) -> str:
    """The last part of a local path (a whole path tells about the machine), with a number if it is taken."""
    path = Path(name).expanduser()
    short = path.resolve().name if path.exists() else name
    same = sum(other == short or other.startswith(f"{short} (") for other in taken)
    return f"{short} ({same + 1})" if same else short


def _read_files(paths: list[Path]) -> "Dataset":
    if all(path.suffix == ".parquet" for path in paths):
        return _number_rows(_read_parquet(paths))
    for path in paths:
        if not path.name.endswith(JSON_ENDINGS):
            raise DataError(
                f"{path.name}: cannot read this kind of file here (expected {', '.join(FILE_ENDINGS)}; in a folder, "
                "Parquet or JSON, not both). Convert the file."
            )
    return _read_json(paths)


def _content_hash(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:32]


def _read_parquet(paths: list[Path]) -> "Dataset":
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    # The library's cache knows a file by its path and date only; the name of the configuration is part of its key.
    key = f"content-{_content_hash(paths)}"
    try:
        empty = [path.name for path in paths if ParquetFile(path).metadata.num_rows == 0]
        if not empty:
            return load_dataset("parquet", name=key, data_files=[str(path) for path in paths], split="train")
    except (ArrowException, DatasetGenerationError) as error:
        reason = error.__cause__ or error
        names = ", ".join(path.name for path in paths)
        raise DataError(f"{names}: not readable as Parquet: {reason}. Write the file again.") from error
    raise DataError(f"{empty[0]}: the file is empty (expected preference pairs). Give it rows.")


def _read_json(paths: list[Path]) -> "Dataset":
    """Reads JSON files twice: once to check every line and to learn the columns, once to write them to the cache."""
    from datasets import Dataset

    kinds = _scan(paths)
    dataset = Dataset.from_generator(
        _typed_rows,
        features=_features(kinds),
        gen_kwargs={
            "paths": tuple(map(str, paths)),
            "kinds": tuple(kinds.items()),
            "content": _content_hash(paths),
            "version": _READER_VERSION,
        },
    )
    assert isinstance(dataset, Dataset)
    return dataset


def _scan(paths: list[Path]) -> dict[str, str]:
    """Checks every row of the files and returns the kind of each column."""
    kinds: dict[str, str] = {}
    forms: dict[str, tuple[str, str]] = {}
    for path in paths:
        empty = True
        for number, row in _json_rows(path):
            empty = False
            for column, value in row.items():
                kinds[column] = _common_kind(kinds.get(column, "null"), _kind(value))
                if column in _PAIR_COLUMNS and isinstance(value, str | list | dict):
                    form = "text" if isinstance(value, str) else "messages"
                    first_form, first_place = forms.setdefault(column, (form, f"{path.name}, row {number}"))
                    if form != first_form:
                        raise DataError(
                            f"{path.name}, row {number}: `{column}` is {form}, in {first_place} it is {first_form} "
                            "(expected one form in all rows). Write every row in the same form."
                        )
        if empty:
            raise DataError(f"{path.name}: the file is empty (expected one preference pair per line). Give it rows.")
    return kinds


def _kind(value: Any) -> str:
    """The kind of a JSON value, by which the column is stored."""
    if isinstance(value, list):
        if all(type(item) is int and abs(item) < 2**63 for item in value):
            return "integers"
        plain = all(
            isinstance(item, dict)
            and item.keys() == {"role", "content"}
            and all(type(v) is str for v in item.values())
            for item in value
        )
        return "messages" if plain else "other"
    if type(value) is int:
        return "integer" if abs(value) < 2**63 else "other"
    return {"NoneType": "null", "bool": "boolean", "float": "number", "str": "text"}.get(type(value).__name__, "other")


def _common_kind(one: str, two: str) -> str:
    if one == two or two == "null":
        return one
    if one == "null":
        return two
    return "number" if {one, two} == {"integer", "number"} else "other"


def _features(kinds: dict[str, str]) -> "Features":
    from datasets import Features, Json, List, Value

    known = {
        "null": Value("null"),
        "boolean": Value("bool"),
        "integer": Value("int64"),
        "number": Value("float64"),
        "text": Value("string"),
        "integers": List(Value("int64")),
        "messages": List({"role": Value("string"), "content": Value("string")}),
    }
    features = {column: known.get(kind, Json()) for column, kind in kinds.items()}
    return Features(features | {"source_row": Value("int64")})


def _typed_rows(paths: tuple[str, ...], kinds: tuple[tuple[str, str], ...], **_key: Any) -> Iterator[dict[str, Any]]:
    """Yields the rows with all columns; values of no simple kind as JSON text, which the dataset reads back."""
    before = 0
    for path in map(Path, paths):
        number = 0
        for number, row in _json_rows(path):
            typed = {column: row.get(column) for column, _ in kinds}
            for column, kind in kinds:
                if kind == "other" and typed[column] is not None:
                    typed[column] = json.dumps(typed[column], ensure_ascii=False)
            yield typed | {"source_row": before + number}
        before += number


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the rows of a file with their numbers: the line in JSON Lines, the position in one JSON list."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            if ".jsonl" not in path.suffixes and file.peek(1).lstrip()[:1] == b"[":
                rows = _parse_json(file.read(), path.name)
                for number, row in enumerate(rows, start=1):
                    yield number, _checked_object(row, f"{path.name}, row {number}")
                return
            for number, line in enumerate(file, start=1):
                text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if text.strip():
                    place = f"{path.name}, line {number}"
                    yield number, _checked_object(_parse_json(text, place), place)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path.name}: cannot be unpacked: {error}. Copy or compress the file again.") from error


def _parse_json(line: bytes, place: str) -> Any:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{place}: found the byte 0x{line[error.start]:02x} at position {error.start + 1} (expected UTF-8 text). "
            "Save the file as UTF-8."
        ) from None
    try:
        value = json.loads(text)
        if "\\ud" in text.lower():  # an escaped half of a character passes as JSON, but can never be encoded
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{place}: found the lone surrogate {error.object[error.start]!a} (expected text that UTF-8 can hold). "
            "Remove or replace that character."
        ) from None
    except (ValueError, RecursionError) as error:
        shown = text.strip() if len(text.strip()) <= 60 else text.strip()[:57] + "..."
        raise DataError(
            f"{place}: not JSON: {error} in {shown!a} (expected one JSON object per line, or in a .json file one list "
            "of objects). Correct the line."
        ) from None
    return value


def _checked_object(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        kinds = {"list": "a list", "str": "text", "NoneType": "null"}
        raise DataError(
            f"{place}: found {kinds.get(type(value).__name__, type(value).__name__)} (expected a JSON object with the "
            "columns of one pair). Correct the line; a file that is one list of objects must end in .json."
        )
    return value
