"""Where the preference pairs of a run come from, and how much of each source is taken."""

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from hf_reward.errors import ConfigurationError


EvalOverlap = Literal["error", "drop", "allow"]


@dataclass
class DataArguments:
    """
    The sources of the training and evaluation pairs.

    A source is a Hub id or a local `.jsonl`, `.json`, `.jsonl.gz` or `.parquet` file. Training takes one source
    (`dataset_name`) or several with amounts (`dataset_mixer_list`).

    Parameters:
        dataset_name (`str`, *optional*):
            Source of the training pairs.
        dataset_config (`str`, *optional*):
            Configuration of `dataset_name` on the Hub.
        dataset_revision (`str`, *optional*):
            Branch, tag or commit of `dataset_name` on the Hub.
        dataset_train_split (`str`, *optional*, defaults to `"train"`):
            Split of `dataset_name` to train on.
        dataset_test_split (`str`, *optional*):
            Split to evaluate on, of `eval_dataset_name` where it is given, else of `dataset_name`.
        eval_dataset_name (`str`, *optional*):
            A second source, for evaluation.
        dataset_mixer_list (`list[str]`, *optional*):
            Sources of the training pairs, each followed by its amount: with a dot a fraction of the source (`1.0` is
            all of it), without a dot a number of pairs. An amount above the size takes pairs more than once.
        dataset_mixer_list_splits (`list[str]`, *optional*, defaults to `["train"]`):
            Splits of the training sources: one for all of them, or one for each.
        dataset_mixer_eval_list (`list[str]`, *optional*):
            Sources and amounts of the evaluation pairs.
        dataset_mixer_eval_list_splits (`list[str]`, *optional*):
            Splits of the evaluation sources: one for all of them, or one for each.
        eval_overlap (`str`, *optional*, defaults to `"error"`):
            What to do when a prompt stands in training and evaluation: `"error"`, `"drop"` (from training) or
            `"allow"`.
        dry_run (`bool`, *optional*, defaults to `False`):
            Whether to resolve, tokenise and show everything, and train nothing.

    Raises:
        `ConfigurationError`: A value cannot work; the message names the parameter, the value and what is expected.
    """

    dataset_name: str | None = field(
        default=None, metadata={"help": "Training pairs: a Hub id, or a .jsonl, .json, .jsonl.gz or .parquet file."}
    )
    dataset_config: str | None = field(
        default=None, metadata={"help": "Configuration of dataset_name on the Hub. Not set: its default."}
    )
    dataset_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of dataset_name. Not set: its main branch."}
    )
    dataset_train_split: str = field(default="train", metadata={"help": "Split of dataset_name to train on."})
    dataset_test_split: str | None = field(
        default=None,
        metadata={"help": "Split to evaluate on, of eval_dataset_name where given, else of dataset_name."},
    )
    eval_dataset_name: str | None = field(
        default=None, metadata={"help": "A second source, for evaluation: a Hub id or a file."}
    )
    dataset_mixer_list: list[str] | None = field(
        default=None,
        metadata={
            "help": "Instead of dataset_name: sources, each followed by its amount; 0.5 (with a dot) is a "
            "fraction of the source, 500 (without) a number of pairs."
        },
    )
    dataset_mixer_list_splits: list[str] = field(
        default_factory=lambda: ["train"],
        metadata={"help": "Splits of the training sources: one for all of them, or one for each."},
    )
    dataset_mixer_eval_list: list[str] | None = field(
        default=None, metadata={"help": "Evaluation sources and amounts, written like dataset_mixer_list."}
    )
    dataset_mixer_eval_list_splits: list[str] = field(
        default_factory=list,
        metadata={"help": "Splits of the evaluation sources: one for all of them, or one for each."},
    )
    eval_overlap: EvalOverlap = field(
        default="error",
        metadata={
            "help": "When a prompt stands in training and evaluation: stop with an error, drop it from training, "
            "or allow it."
        },
    )
    dry_run: bool = field(
        default=False, metadata={"help": "Resolve, tokenise and show everything; train and write nothing."}
    )

    def __post_init__(self) -> None:
        self.dataset_mixer_list = self.dataset_mixer_list or None
        self.dataset_mixer_eval_list = self.dataset_mixer_eval_list or None
        for one, several in (
            ("dataset_name", "dataset_mixer_list"),
            ("eval_dataset_name", "dataset_mixer_eval_list"),
            ("dataset_test_split", "dataset_mixer_eval_list"),
        ):
            if getattr(self, one) is not None and getattr(self, several) is not None:
                raise ConfigurationError(f"`{one}`: found together with `{several}`; expected only one of the two")
        if self.dataset_name is None:
            self._check_unused()
        for mixer in ("dataset_mixer_list", "dataset_mixer_eval_list"):
            self._check_mixer(mixer)
        if self.eval_overlap not in get_args(EvalOverlap):
            choices = ", ".join(get_args(EvalOverlap))
            raise ConfigurationError(f"`eval_overlap`: found {self.eval_overlap!r}; expected one of {choices}")

    def check_sources(self) -> None:
        """
        Checks that a training source is named; scripts that pass datasets of their own need none.

        Raises:
            `ConfigurationError`: Neither `dataset_name` nor `dataset_mixer_list` is given.
        """
        if self.dataset_name is None and self.dataset_mixer_list is None:
            raise ConfigurationError(
                "`dataset_name`: found no training data; expected a Hub id or a file here, or a list of sources "
                "and amounts in `dataset_mixer_list`"
            )

    def _check_unused(self) -> None:
        for name in ("dataset_config", "dataset_revision", "dataset_test_split"):
            belongs_to_eval = name == "dataset_test_split" and self.eval_dataset_name is not None
            if getattr(self, name) is not None and not belongs_to_eval:
                raise ConfigurationError(f"`{name}`: found it set without `dataset_name`, to which it belongs")

    def _check_mixer(self, name: str) -> None:
        mixer: list[str] | None = getattr(self, name)
        splits: list[str] = getattr(self, f"{name}_splits")
        if mixer is None:
            return
        if len(mixer) % 2:
            raise ConfigurationError(
                f"`{name}`: found {len(mixer)} value(s); expected sources and amounts in turn: `pairs.jsonl 1.0`"
            )
        for source, amount in zip(mixer[::2], mixer[1::2], strict=True):
            try:
                parse_amount(amount)
            except ConfigurationError as error:
                raise ConfigurationError(f"`{name}`: {source}: {error}") from None
        sources = len(mixer) // 2
        if not splits:
            raise ConfigurationError(f"`{name}_splits`: found nothing; expected the split to take from `{name}`")
        if len(splits) not in (1, sources):
            raise ConfigurationError(
                f"`{name}_splits`: found {len(splits)} splits for {sources} sources; expected 1 or {sources}"
            )
        setattr(self, f"{name}_splits", list(splits) * sources if len(splits) == 1 else list(splits))


def parse_amount(text: str) -> int | float:
    """
    How much of a source to take.

    Args:
        text (`str`):
            With a dot, a fraction of the source (`"1.0"` is all of it, `"2.5"` two and a half times); without a dot,
            a number of pairs.

    Returns:
        `int` or `float`: A number of pairs (`int`), or a fraction (`float`).

    Raises:
        `ConfigurationError`: The text is neither.

    Example:
        >>> parse_amount("1"), parse_amount("0.5")
        (1, 0.5)
    """
    expected = "a fraction above 0 with a dot (0.5), or a number of pairs without one (500)"
    try:
        amount: int | float = float(text) if "." in text else int(text)
    except (ValueError, TypeError):
        raise ConfigurationError(f"found the amount {text!r}; expected {expected}") from None
    if not (math.isfinite(amount) and amount > 0):
        raise ConfigurationError(f"found the amount {text!r}; expected {expected}")
    return amount
