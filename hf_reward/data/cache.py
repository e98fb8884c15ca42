"""Tokenised sources on disk: found by their content, built by one process, whole or absent."""

import dataclasses
import hashlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets
from datasets import config as datasets_config
from filelock import FileLock, Timeout
from transformers import PreTrainedTokenizerBase

from hf_reward import __version__
from hf_reward.data.reading import RowReader
from hf_reward.data.tokenization import TOKENIZATION_VERSION, RowRules


logger = logging.getLogger(__name__)

_MANIFEST = "manifest.json"
# What decides how a text becomes token ids, besides the settings.
_LIBRARIES = ("transformers", "tokenizers", "jinja2")


def default_cache_dir() -> Path:
    """The folder `hf_reward` in the cache of the datasets library."""
    return Path(datasets_config.HF_DATASETS_CACHE) / "hf_reward"


def cache_key(dataset: Dataset, reader: RowReader, tokenizer: PreTrainedTokenizerBase, rules: RowRules) -> str:
    """
    A name for what these make together: equal if and only if the tokenised rows would be.

    The rows are known by the dataset's fingerprint, which `hf_reward.data.loading` derives from the bytes of local
    files and from the revision of Hub datasets.
    """
    parts = {
        "rows": dataset._fingerprint,
        "reader": dataclasses.asdict(reader),
        "tokenizer": describe_tokenizer(tokenizer),
        "rules": dataclasses.asdict(rules),
        "code": [__version__, TOKENIZATION_VERSION, sys.version_info[:2], [version(name) for name in _LIBRARIES]],
    }
    # A template that writes today's date gives other ids tomorrow.
    if "strftime_now" in str(tokenizer.chat_template):
        parts["day"] = datetime.now(tz=UTC).astimezone().date().isoformat()
    text = json.dumps(parts, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def describe_tokenizer(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Everything of a tokenizer by which it makes ids: vocabulary, rules, special tokens, chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        vocabulary: Any = sorted(tokenizer.get_vocab().items())
    else:
        vocabulary = json.loads(backend.to_str())
        # Left over from the last call; every call sets them anew.
        vocabulary |= {"truncation": None, "padding": None}
    return {
        "class": type(tokenizer).__name__,
        "vocabulary": vocabulary,
        "special_tokens": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "added_tokens": {index: repr(token) for index, token in sorted(tokenizer.added_tokens_decoder.items())},
        "split_special_tokens": bool(getattr(tokenizer, "split_special_tokens", False)),
        "chat_template": tokenizer.chat_template,
    }


def build_once(folder: Path, key: str, name: str, build: Callable[[Path], Dataset]) -> Dataset:
    """
    Load what is stored under a key, or build it and store it, whichever of several processes comes first.

    It is written under a temporary name and renamed when it is whole, so that a process that is killed leaves nothing
    that counts as stored.

    Args:
        folder (`Path`): The cache; made if missing.
        key (`str`): The name of the entry; see [`cache_key`].
        name (`str`): Name of the source, for messages.
        build (`Callable`): Makes the dataset, its rows written to the file that it is given.

    Returns:
        `Dataset`: The rows, mapped from disk.
    """
    entry = folder / key
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(str(folder / f"{key}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("%s: another process tokenises it; waiting", name)
        lock.acquire()
    try:
        if (entry / _MANIFEST).is_file():
            logger.info("%s: tokenised before, taken from the cache", name)
        else:
            _build(entry, build)
        return _load(entry)
    finally:
        lock.release()


def _build(entry: Path, build: Callable[[Path], Dataset]) -> None:
    # Whoever holds the lock is alone; what lies here under a temporary name is of a process that was killed.
    for leftover in entry.parent.glob(f".{entry.name}.*.partial"):
        shutil.rmtree(leftover, ignore_errors=True)
    partial = entry.with_name(f".{entry.name}.{os.getpid()}.partial")
    partial.mkdir()
    try:
        dataset = build(partial / "rows.arrow")
        files = [Path(file["filename"]).name for file in dataset.cache_files]
        manifest = {"files": files, "rows": len(dataset), "hf_reward": __version__}
        (partial / _MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
        os.replace(partial, entry)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _load(entry: Path) -> Dataset:
    files = json.loads((entry / _MANIFEST).read_text(encoding="utf-8"))["files"]
    return concatenate_datasets([Dataset.from_file(str(entry / file)) for file in files])


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set | frozenset) else str(value)
