"""One run in one folder: a lock that the system takes back when its process ends, however it ends."""

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from hf_reward.errors import ConfigurationError, RunError


logger = logging.getLogger(__name__)

# The underscore keeps it out of what the Trainer uploads.
LOCK = "_hf_reward.lock"
# Locked by this process, which may lock a folder again inside.
_held: set[Path] = set()


@contextlib.contextmanager
def only_run_in(folder: str | Path, first_process: bool = True) -> Iterator[None]:
    """
    Keep other runs out of a folder; the first process of a run does it for the others.

    The file names process and host, for the message; the lock itself is the kernel's (`lockf`), on NFS too, and ends
    with the process. So the file of a killed run locks nothing and is taken over.

    Raises:
        `ConfigurationError`: Another process is at work there.
        `RunError`: Nothing can be written there.
    """
    path = (Path(folder) / LOCK).resolve()
    if path in _held or not first_process:
        yield
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = _open_and_lock(path)
    except OSError as error:
        raise RunError(f"{path.parent} cannot be written to ({error.strerror}).") from error
    _held.add(path)
    try:
        yield
    finally:
        _held.discard(path)
        path.unlink(missing_ok=True)
        os.close(handle)


def check_no_other_run(folder: str | Path) -> None:
    """
    See that no other run is at work in a folder; nothing is written.

    Raises:
        `ConfigurationError`: One is.
    """
    path = (Path(folder) / LOCK).resolve()
    # To close the file of a lock that this process holds would give the lock up.
    if path in _held or not path.is_file():
        return
    with path.open("r+b") as file:
        _lock(file.fileno(), path)


def _open_and_lock(path: Path) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(handle, path)
            # The run before may have removed the file between our opening and our locking it.
            if not path.exists() or os.fstat(handle).st_ino != path.stat().st_ino:
                os.close(handle)
                continue
            left = os.pread(handle, 1000, 0).decode(errors="replace").strip()
            if left:
                logger.warning("%s was left by a run that has ended (%s); taken over", path.name, left)
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode() + b"\n", 0)
        except BaseException:
            os.close(handle)
            raise
        return handle


def _lock(handle: int, path: Path) -> None:
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            logger.warning("%s: this file system has no locks (%s); see that no other run works there", path, error)
            return
        holder = os.pread(handle, 1000, 0).decode(errors="replace").strip() or "a run that has just begun"
        raise ConfigurationError(
            f"`output_dir` {str(path.parent)!r} is in use by another run ({holder}). Wait until it has ended, or "
            "choose another folder."
        ) from error
