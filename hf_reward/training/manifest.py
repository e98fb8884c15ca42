"""What a complete checkpoint is: a manifest with size and hash of every file, or, without one, the right structure."""

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import accelerate
import torch
import transformers

from hf_reward import __version__
from hf_reward.errors import ConfigurationError
from hf_reward.files import flush, write_json


MANIFEST = "manifest.json"
_WEIGHTS = ("model.safetensors", "adapter_model.safetensors")
# Folders in which DeepSpeed and FSDP keep their shards.
_SHARD_FOLDERS = ("global_step*", "pytorch_model_fsdp*")


def write_manifest(folder: Path, step: int, world_size: int, mode: str) -> None:
    """Flush every file of a finished checkpoint to the disk, and then write down what it consists of."""
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        files[path.relative_to(folder).as_posix()] = {"size": path.stat().st_size, "sha256": _sha256(path)}
        flush(path)
    libraries = {"hf_reward": __version__, "torch": torch.__version__}
    libraries |= {module.__name__: module.__version__ for module in (transformers, accelerate)}
    about = {"step": step, "world_size": world_size, "mode": mode, "versions": libraries}
    write_json(about | {"files": files}, folder / MANIFEST)
    flush(folder / MANIFEST)
    for inner in (*(path for path in folder.rglob("*") if path.is_dir()), folder):
        flush(inner)


def read_manifest(folder: str | Path) -> dict[str, Any] | None:
    """The manifest of a checkpoint, or `None` for one of plain transformers."""
    path = Path(folder) / MANIFEST
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def what_is_wrong(folder: str | Path, verify: str = "sizes") -> str | None:
    """
    Why a checkpoint cannot be resumed from.

    Args:
        folder (`str` or `Path`): The checkpoint.
        verify (`str`, *optional*, defaults to `"sizes"`):
            `"sizes"` compares the sizes of all files with the manifest, `"full"` their hashes too, which reads every
            byte once.

    Returns:
        `str`, *optional*: The first thing that is wrong; `None` for a complete checkpoint.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return "there is no such folder"
    try:
        manifest = read_manifest(folder)
        if manifest is None:
            return _wrong_structure(folder)
        return _differs_from(manifest["files"], folder, verify)
    except (ValueError, KeyError, TypeError, OSError) as error:
        return f"{MANIFEST} or trainer_state.json cannot be read ({error})"


def check_trusted(folder: str | Path) -> None:
    """
    See that what would be unpickled, which can run code, is what our manifest lists.

    DeepSpeed and the sharded checkpoints of FSDP read their files with `pickle`; everything else in a checkpoint is
    safetensors, JSON, or read with `weights_only`.

    Raises:
        `ConfigurationError`: There is such a file, and no manifest, or one that says otherwise.
    """
    folder = Path(folder)
    if not any(folder.glob("global_step*")) and not any(folder.rglob(".metadata")):
        return
    manifest = read_manifest(folder)
    files = {} if manifest is None else manifest["files"]
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    unlisted = sorted(present - set(files) - {MANIFEST})
    wrong = f"{unlisted[0]} is not in its {MANIFEST}" if unlisted else _differs_from(files, folder, "full")
    if wrong is not None:
        raise ConfigurationError(
            f"{folder.name} holds files of DeepSpeed or FSDP, which can run code when they are read, and {wrong}. If "
            "you trust whoever made it, set `trust_remote_code: true`."
        )


def _differs_from(files: dict[str, dict[str, Any]], folder: Path, verify: str) -> str | None:
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected["size"]:
            return f"{name} has {path.stat().st_size} bytes, not {expected['size']}"
        if verify == "full" and _sha256(path) != expected["sha256"]:
            return f"{name} has the right size but other contents than were saved"
    return None


def _wrong_structure(folder: Path) -> str | None:
    """The same question for a checkpoint without a manifest: readable state, whole weights, whole optimizer."""
    if not (folder / "trainer_state.json").is_file():
        return "trainer_state.json is missing"
    state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    if not isinstance(state.get("global_step"), int):
        return "trainer_state.json names no step"
    weights = [name for name in _WEIGHTS if (folder / name).is_file()]
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        weights += sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    shards = [path for pattern in _SHARD_FOLDERS for path in folder.glob(pattern)]
    if not weights and not shards:
        return "there are no weights (safetensors)"
    for name in weights:
        if not _is_whole_safetensors(folder / name):
            return f"{name} is not complete"
    if (folder / "optimizer.pt").is_file() != (folder / "scheduler.pt").is_file() and not shards:
        return "only one of optimizer.pt and scheduler.pt is there"
    # torch saves zip archives, whose table of contents comes last.
    half = [name for name in ("optimizer.pt", "scheduler.pt") if (folder / name).is_file()]
    half = [name for name in half if not zipfile.is_zipfile(folder / name)]
    return f"{half[0]} is not complete" if half else None


def _is_whole_safetensors(path: Path) -> bool:
    """Whether the file is as long as its header says (the header is JSON behind its length in 8 bytes)."""
    if not path.is_file() or path.stat().st_size < 8:
        return False
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size - 8:
            return False
        header = json.loads(file.read(length))
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return path.stat().st_size == 8 + length + max(ends, default=0)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
