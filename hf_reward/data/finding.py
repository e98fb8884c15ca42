"""What a name stands for: a local file, folder or glob, or a dataset on the Hub, opened as it is."""

import difflib
import glob
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_reward.config.source_specs import SourceSpec
from hf_reward.data.files import FILE_ENDINGS, Files, number_rows, open_files
from hf_reward.errors import ConfigurationError, DataError


if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

# A name that ends like this is a file that was mistyped, never a dataset on the Hub.
_DATA_SUFFIXES = {".jsonl", ".json", ".gz", ".parquet", ".csv", ".tsv", ".txt", ".arrow"}
# The word of a file name that puts it into a split, as the Hub reads the files of a dataset; other files are train.
_SPLIT_WORDS = {"validation": {"validation", "valid", "val", "dev"}, "test": {"test", "testing", "eval", "evaluation"}}
# Names under which the datasets library has readers; given one without files, it would read all of the working folder.
_READERS = {
    "arrow",
    "csv",
    "generator",
    "imagefolder",
    "json",
    "pandas",
    "parquet",
    "sql",
    "text",
    "webdataset",
    "xml",
}


@dataclass
class Opened:
    """The rows that a name stands for, the split that was taken, and for several files the rows before each."""

    dataset: "Dataset | IterableDataset"
    split: str
    files: Files = ()


def open_source(spec: SourceSpec, streaming: bool = False, keep_bad: bool = False, any_split: bool = False) -> Opened:
    """
    Opens a local file, a folder (from `save_to_disk`, or with data files), a glob, or a Hub dataset.

    Args:
        spec (`SourceSpec`):
            What is asked for; its amount is not looked at here.
        streaming (`bool`, *optional*, defaults to `False`):
            Whether to read while training.
        keep_bad (`bool`, *optional*, defaults to `False`):
            Whether lines that cannot be read become rows with `source_error`.
        any_split (`bool`, *optional*, defaults to `False`):
            Whether a single file, which has the split train only, may be asked for another.

    Raises:
        `DataError`: There is nothing of this name, or it cannot be read.
        `ConfigurationError`: It does not have the split, or the name is that of a reader.
    """
    path = Path(spec.name).expanduser()
    if path.is_dir():
        return _open_folder(path, spec.split, streaming, keep_bad)
    paths = [path] if path.is_file() else _matching(path)
    if paths:
        if spec.split not in (None, "train") and not any_split:
            raise ConfigurationError(
                f"{path.name}: found no split {spec.split}; one file has the split train only. Ask for train, or "
                "name the file with the evaluation pairs in `eval_dataset_name`."
            )
        dataset, files = open_files(paths, _common_folder(paths), streaming, keep_bad)
        return Opened(dataset, spec.split or "train", files)
    if spec.name.startswith((".", "/", "~")) or spec.name.count("/") > 1 or path.suffix in _DATA_SUFFIXES:
        raise DataError(f"{spec.name}: no such file or folder. {_nearest(path)}")
    if spec.name in _READERS or spec.name in _packaged_readers():
        raise ConfigurationError(
            f"{spec.name}: found the name of a reader of the datasets library, not of data; expected the files "
            f"themselves, such as pairs.{spec.name} or folder/*.{spec.name}"
        )
    return _open_on_hub(spec, streaming)


def short_name(name: str, taken: list[str]) -> str:
    """The last part of a local path (a whole path tells about the machine), with a number if it is taken."""
    path = Path(name).expanduser()
    short = path.resolve().name if path.exists() or glob.has_magic(name) else name
    same = sum(other == short or other.startswith(f"{short} (") for other in taken)
    return f"{short} ({same + 1})" if same else short


def _matching(pattern: Path) -> list[Path]:
    if not glob.has_magic(str(pattern)):
        return []
    found = [Path(name) for name in sorted(glob.glob(str(pattern), recursive=True)) if name.endswith(FILE_ENDINGS)]
    if not found:
        raise DataError(
            f"{pattern.name}: matches no data file (expected {', '.join(FILE_ENDINGS)}). Correct the pattern."
        )
    return found


def _common_folder(paths: list[Path]) -> Path:
    folder = paths[0].parent
    while not all(path.is_relative_to(folder) for path in paths):
        folder = folder.parent
    return folder


def _nearest(path: Path) -> str:
    if not path.parent.is_dir():
        return f"The folder {path.parent} does not exist either; correct the path."
    near = difflib.get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()], n=1, cutoff=0.5)
    return f"Did you mean {path.parent / near[0]}?" if near else f"Nothing in {path.parent} has a name like it."


def _open_folder(path: Path, split: str | None, streaming: bool, keep_bad: bool) -> Opened:
    """What `save_to_disk` wrote, or the data files of a folder, put into splits by their names."""
    if (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists():
        saved = _load_saved(path)
        chosen = _choose_split(list(saved), split, path.name)
        dataset = number_rows(saved[chosen])
        return Opened(dataset.to_iterable_dataset() if streaming else dataset, chosen)
    files: dict[str, list[Path]] = {}
    for file in sorted(path.rglob("*")):
        if file.name.endswith(FILE_ENDINGS) and not any(part.startswith(".") for part in file.relative_to(path).parts):
            words = set(re.split(r"[-._ 0-9]+", file.name.lower()))
            of_file = next((name for name, marks in _SPLIT_WORDS.items() if marks & words), "train")
            files.setdefault(of_file, []).append(file)
    if not files:
        raise DataError(f"{path.name}: the folder holds no data (expected {', '.join(FILE_ENDINGS)} files). Add some.")
    chosen = _choose_split(list(files), split, path.name)
    opened, offsets = open_files(files[chosen], path, streaming, keep_bad)
    return Opened(opened, chosen, offsets)


def _load_saved(path: Path) -> "dict[str, Dataset]":
    from datasets import DatasetDict, load_from_disk

    try:
        saved = load_from_disk(str(path))
    except (OSError, ValueError, KeyError, IndexError) as error:  # the library cannot load an empty set either
        raise DataError(
            f"{path.name}: not readable as a saved dataset, or saved empty: {error}. Save it again."
        ) from error
    return dict(saved) if isinstance(saved, DatasetDict) else {"train": saved}


def _open_on_hub(spec: SourceSpec, streaming: bool) -> Opened:
    import datasets

    options: dict[str, Any] = {"data_dir": spec.data_dir} if spec.data_dir else {}
    if streaming:
        options["streaming"] = True
    try:
        loaded = datasets.load_dataset(spec.name, spec.config, split=spec.split, revision=spec.revision, **options)
    except OSError as error:  # no connection, offline mode, no such dataset, no access
        raise DataError(
            f"{spec.name}: not a local file or folder, and not loaded from the Hub: {error}. Check the name; for a "
            "Hub dataset connect to the network (HF_HUB_OFFLINE off) and log in if it is gated; for local data give "
            "its path."
        ) from error
    except ValueError as error:  # an unknown split or configuration: the message lists those that exist
        raise ConfigurationError(f"{spec.name}: {error}") from error
    if isinstance(loaded, datasets.DatasetDict | datasets.IterableDatasetDict):
        chosen = _choose_split(list(loaded), None, spec.name)
        return Opened(number_rows(loaded[chosen]), chosen)
    return Opened(number_rows(loaded), str(spec.split))


def _choose_split(found: list[str], asked: str | None, name: str) -> str:
    if asked is None and len(found) == 1:
        return found[0]
    if asked not in found:
        problem = "has several splits" if asked is None else f"found no split {asked}"
        raise ConfigurationError(f"{name}: {problem}; expected one of {', '.join(found)}. Name one of them.")
    return asked


def _packaged_readers() -> set[str]:
    from datasets import packaged_modules

    return set(getattr(packaged_modules, "_PACKAGED_DATASETS_MODULES", ()))
