"""The folders `checkpoint-N` of a run: which of them are complete, which one to go on from, which ones may go."""

import logging
import re
import shutil
import uuid
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_reward.errors import ConfigurationError
from hf_reward.files import FILES_ASIDE
from hf_reward.training.manifest import MANIFEST, what_is_wrong


logger = logging.getLogger(__name__)

# What a checkpoint is called before it is whole; the underscore keeps it out of what the Trainer uploads.
ASIDE = f"_tmp-{PREFIX_CHECKPOINT_DIR}-"
_NAME = re.compile(rf"^{PREFIX_CHECKPOINT_DIR}-(\d+)$")


def checkpoints(folder: str | Path) -> list[Path]:
    """Folders `checkpoint-N` of a run, complete or not, lowest step first."""
    if not Path(folder).is_dir():
        return []
    found = [path for path in Path(folder).iterdir() if path.is_dir() and _NAME.match(path.name)]
    return sorted(found, key=_step)


def newest_complete(folder: str | Path, verify: str = "sizes") -> tuple[Path | None, dict[str, str]]:
    """
    The checkpoint to go on from, and those that are newer but not complete.

    Args:
        folder (`str` or `Path`): The run's output folder.
        verify (`str`, *optional*, defaults to `"sizes"`): See [`what_is_wrong`].

    Returns:
        The newest complete checkpoint (`None` if there is none), and by name what is wrong with each that was skipped.
    """
    skipped: dict[str, str] = {}
    for path in reversed(checkpoints(folder)):
        wrong = what_is_wrong(path, verify)
        if wrong is None:
            return path, skipped
        skipped[path.name] = wrong
    return None, skipped


def resolve_resume(folder: str | Path, resume: str | bool | None, verify: str = "sizes") -> str | None:
    """
    The checkpoint that `resume_from_checkpoint` means.

    Args:
        folder (`str` or `Path`): The run's output folder.
        resume (`str` or `bool`, *optional*):
            `None` or false: none. `True`: the newest complete one. `"auto"`: the same, or none if there is none. A
            folder: that one.
        verify (`str`, *optional*, defaults to `"sizes"`): See [`what_is_wrong`].

    Raises:
        `ConfigurationError`: There is no complete checkpoint, or the one that was named is not complete.
    """
    word = str(resume).lower()
    if resume is None or word in ("false", "none", ""):
        return None
    if word not in ("true", "auto"):
        wrong = what_is_wrong(str(resume), verify)
        if wrong is not None:
            raise ConfigurationError(
                f"`resume_from_checkpoint`: {str(resume)!r} is not a complete checkpoint: {wrong}. Name another, or "
                "say true, which takes the newest complete one."
            )
        return str(resume)
    found, skipped = newest_complete(folder, verify)
    for name, wrong in skipped.items():
        logger.warning("%s is skipped: %s; going on from %s", name, wrong, found.name if found else "none")
    if found is None and (word == "true" or skipped):
        said = "; ".join(f"{name}: {wrong}" for name, wrong in skipped.items())
        raise ConfigurationError(
            f"`resume_from_checkpoint` is {word}, but `output_dir` {str(folder)!r} holds no complete checkpoint"
            f"{f' ({said})' if said else ''}. Start without it, in another folder."
        )
    return None if found is None else str(found)


def clear_leftovers(folder: str | Path) -> None:
    """
    Remove what killed runs left half written; a checkpoint that was whole and lacked only its name gets it.

    Nothing else may write into the folder meanwhile.
    """
    for left in Path(folder).glob(f"{FILES_ASIDE}*"):
        shutil.rmtree(left, ignore_errors=True)
    for left in Path(folder).glob(f"{ASIDE}*"):
        for written in left.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
            final = left.parent / written.name
            if (written / MANIFEST).is_file() and what_is_wrong(written) is None and not final.exists():
                written.rename(final)
        shutil.rmtree(left, ignore_errors=True)


def rotate(folder: str | Path, limit: int | None, keep: set[Path]) -> None:
    """Delete checkpoints until `limit` are left: broken ones first, then the oldest, never those in `keep`."""
    if not limit or limit < 1:
        return
    found = checkpoints(folder)
    protected = {path.resolve() for path in keep}
    order = sorted(found, key=lambda path: (what_is_wrong(path) is None, path.stat().st_mtime, _step(path)))
    for path in [path for path in order if path.resolve() not in protected][: max(0, len(found) - limit)]:
        logger.info("checkpoint: %s is deleted (`save_total_limit` is %d)", path.name, limit)
        _remove(path)


def _step(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _remove(path: Path) -> None:
    """Delete a checkpoint; it loses its name first, so that no half of it is ever seen."""
    aside = path.with_name(f"{ASIDE}{_step(path)}-{uuid.uuid4().hex[:8]}")
    path.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)
