"""What a model card states about a run, and what of it may be published: names, but no secrets and no local paths."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from hf_reward.evaluation.pairs import ScoredPair
from hf_reward.evaluation.tables import visible


DATA_SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".parquet", ".csv", ".arrow")
PAIR_TEXTS = ("prompt", "chosen", "rejected")
SECRET = re.compile(r"hf_[A-Za-z0-9]{8,}")
SECRET_KEY = re.compile(r"hub_token|api_?key|secret|password", re.IGNORECASE)
# The beginning of an absolute path on any system. Within a line it must not be preceded by what would make it part of
# a word, of a web address or of a relative path, and it ends at a space.
ROOT = r"(?:(?:file:/+|~)?/|[A-Za-z]:[\\/]|\\\\\w)"
WHOLE_PATH = re.compile(ROOT + ".+")
PATH_WITHIN = re.compile(rf"(?<![\w:/.\\]){ROOT}[^\s`'\",;]+")


@dataclass(frozen=True)
class CardFacts:
    """
    What was observed of a run, as the card states it. What is missing is left out of the card.

    Args:
        model_name (`str`): Name of the trained model; of a path only the last part is shown.
        hub_model_id (`str`, *optional*): Hub id that the model is pushed to; the snippets load from it.
        base_model (`str`, *optional*): Hub id of the model that was trained further; see [`public_name`].
        from_scratch (`bool`, defaults to `False`): The weights were random before training.
        datasets (`Sequence[str]`): Sources of the training pairs; see [`dataset_label`].
        data_report (`Mapping`): The data report, as written to `data_report.json`.
        eval_metrics (`Mapping`): Metrics as in `eval_results.json`; `eval_<name>_accuracy` for several sets.
        eval_split (`str`, *optional*): Split that was evaluated.
        train_metrics (`Mapping`): `train_loss`, `train_runtime` (seconds), `steps` (optimizer steps), `num_pairs`,
            `num_tokens`.
        hyperparameters (`Mapping`): Settings that differ from their defaults.
        seed (`int`, *optional*): Seed of the run.
        hardware (`str`, *optional*): One line on devices and mode.
        dtype (`str`, *optional*): Type of the weights in training.
        adapter (`Mapping`, *optional*): Settings of the adapter, if one was trained.
        is_adapter (`bool`, defaults to `False`): The checkpoint holds the adapter alone.
        is_encoder (`bool`, defaults to `False`): The model pools in its own way instead of reading the last token.
        has_chat_template (`bool`, defaults to `True`): The saved tokenizer has a chat template.
        max_length (`int`, *optional*): Longest sequence in training, in tokens.
        reward_mean, reward_std (`float`, *optional*): The values saved in the model's config, in reward units.
        reload_difference (`float`, *optional*): Largest absolute difference between the rewards of training and those
            of the saved checkpoint loaded in float32.
        best, worst (`Sequence[ScoredPair]`): Pairs to show.
        plots (`Sequence[str]`): File names of plots beside the card.
        versions (`Mapping`): Version by library.
        license (`str`, *optional*): License of the model, as an identifier of the Hub.
    """

    model_name: str
    hub_model_id: str | None = None
    base_model: str | None = None
    from_scratch: bool = False
    datasets: Sequence[str] = ()
    data_report: Mapping[str, Any] = field(default_factory=dict)
    eval_metrics: Mapping[str, Any] = field(default_factory=dict)
    eval_split: str | None = None
    train_metrics: Mapping[str, Any] = field(default_factory=dict)
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    hardware: str | None = None
    dtype: str | None = None
    adapter: Mapping[str, Any] | None = None
    is_adapter: bool = False
    is_encoder: bool = False
    has_chat_template: bool = True
    max_length: int | None = None
    reward_mean: float | None = None
    reward_std: float | None = None
    reload_difference: float | None = None
    best: Sequence[ScoredPair] = ()
    worst: Sequence[ScoredPair] = ()
    plots: Sequence[str] = ()
    versions: Mapping[str, Any] = field(default_factory=dict)
    license: str | None = None


def public_name(name_or_path: str | Path | None) -> str | None:
    """
    Return a model's name if it may stand on a card: a Hub id that is not a path on this machine.

    Examples:

    >>> public_name("Qwen/Qwen3-0.6B")
    'Qwen/Qwen3-0.6B'
    >>> public_name("/data/models/mine") is None
    True
    """
    if name_or_path is None or not is_hub_id(str(name_or_path)) or os.path.exists(name_or_path):
        return None
    return str(name_or_path)


def dataset_label(name: str | Path) -> str:
    """
    Return a data source's name as it may stand on a card: a Hub id as it is, a local path as its last part.

    Examples:

    >>> dataset_label("/data/pairs/train.jsonl")
    'local file `train.jsonl`'
    >>> dataset_label("trl-lib/ultrafeedback_binarized")
    'trl-lib/ultrafeedback_binarized'
    """
    if os.path.exists(name):
        return f"local {'folder' if os.path.isdir(name) else 'file'} `{last_part(str(name))}`"
    return source_label(str(name))


def clean_facts(facts: CardFacts) -> CardFacts:
    """Take secrets and absolute paths out of the facts; a Hub id that is none becomes `None`."""
    cleaned = {f.name: _clean(getattr(facts, f.name)) for f in fields(facts) if f.name not in ("best", "worst")}
    # The texts of pairs are data: a path in them is no path of this machine, but a secret stays a secret.
    for name in ("best", "worst"):
        cleaned[name] = [
            replace(pair, **{part: SECRET.sub("[secret removed]", getattr(pair, part)) for part in PAIR_TEXTS})
            for pair in getattr(facts, name)
        ]
    # Checked on the given name: the last part of a path would look like an id.
    for name in ("base_model", "hub_model_id"):
        given = getattr(facts, name)
        cleaned[name] = given if given is not None and is_hub_id(given) else None
    return CardFacts(**cleaned)


def _clean(value: Any) -> Any:
    if isinstance(value, str | Path):
        text = SECRET.sub("[secret removed]", visible(str(value)))
        if WHOLE_PATH.fullmatch(text):
            return last_part(text)
        return PATH_WITHIN.sub(lambda match: last_part(match.group()), text)
    if isinstance(value, Mapping):
        return {_clean(key): _clean(item) for key, item in value.items() if not SECRET_KEY.search(str(key))}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return value


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a Hub id, `name` or `owner/name`."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but not re-exported

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def last_part(path: str) -> str:
    """Return the file or folder name at the end of a path of any system."""
    return re.split(r"[\\/]+", path.rstrip("\\/"))[-1]


def source_label(name: str) -> str:
    """Name a data source by its looks alone, so that the card does not depend on the files of this machine."""
    if name.endswith(DATA_SUFFIXES) or WHOLE_PATH.fullmatch(name):
        return f"local file `{last_part(name)}`"
    return name


def is_hub_dataset(name: str) -> bool:
    """Whether a data source is named by a Hub id; without an owner it is more often a generated dataset."""
    return source_label(name) == name and "/" in name and is_hub_id(name)
