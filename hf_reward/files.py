"""Files that are written whole or not at all."""

import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hf_reward.errors import ConfigurationError


# How folders begin in which files lie until they are whole; the underscore keeps them out of what the Trainer uploads.
FILES_ASIDE = "_tmp-files-"


@contextmanager
def whole_or_absent(path: str | Path) -> Iterator[Path]:
    """
    Yield a temporary name beside `path` to write to; afterwards it is renamed, or removed if something was raised.

    Examples:

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.txt"
    >>> with whole_or_absent(path) as partial:
    ...     _ = partial.write_text("done")
    >>> path.read_text()
    'done'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_or_absent_files(folder: str | Path, last: Collection[str] = ()) -> Iterator[Path]:
    """
    Yield an empty folder in `folder` to write files to; then each takes its place in `folder`, or all are removed
    if something was raised.

    Args:
        folder (`str` or `Path`): Where the files are to be; made if it is not there.
        last: Names of files that take their places after all others.

    Examples:

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with whole_or_absent_files(folder) as aside:
    ...     _ = (aside / "a.txt").write_text("done")
    >>> [path.name for path in folder.iterdir()]
    ['a.txt']
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=FILES_ASIDE, dir=folder))
    try:
        yield aside
        files = [path.relative_to(aside) for path in aside.rglob("*") if path.is_file()]
        for name in files:
            flush(aside / name)
        for name in sorted(files, key=lambda name: (name.name in last, name)):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(aside / name, folder / name)
        flush(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def flush(path: Path) -> None:
    """Wait until a file, or the list of names in a folder, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(value: Any, path: str | Path) -> None:
    """Write a value as indented JSON."""
    with whole_or_absent(path) as partial:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def nearest_existing(folder: str | Path) -> Path:
    """The folder itself, or the one nearest above it that is there."""
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    return place


def check_writable(folder: str | Path, key: str) -> None:
    """
    See that a folder can be written to, or made, without leaving anything there.

    Raises:
        `ConfigurationError`: It cannot; the message names the key and the place that refuses.
    """
    place = nearest_existing(folder)
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise ConfigurationError(
            f"`{key}` is {str(folder)!r}, where nothing can be written ({place}: {error.strerror}). Choose another."
        ) from error
