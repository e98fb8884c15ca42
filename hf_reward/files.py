"""Files that are written whole or not at all."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hf_reward.errors import ConfigurationError


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


def write_json(value: Any, path: str | Path) -> None:
    """Write a value as indented JSON."""
    with whole_or_absent(path) as partial:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def check_writable(folder: str | Path, key: str) -> None:
    """
    See that a folder can be written to, or made, without leaving anything there.

    Raises:
        `ConfigurationError`: It cannot; the message names the key and the place that refuses.
    """
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise ConfigurationError(
            f"`{key}` is {str(folder)!r}, where nothing can be written ({place}: {error.strerror}). Choose another."
        ) from error
