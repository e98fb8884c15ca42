"""Where the preference pairs of a run come from, and how much of each source is taken."""

from dataclasses import dataclass, field, replace
from typing import Any

from hf_reward.config.source_specs import SourceSpec, from_json, parse_amount, read_source
from hf_reward.errors import ConfigurationError


_TRAINING = ("dataset_name", "datasets", "dataset_mixer_list")
_EVALUATION = ("eval_dataset_name", "dataset_mixer_eval_list", "eval_datasets", "eval_split_size")


@dataclass
class SourceArguments:
    """
    The sources of the training and evaluation pairs.

    A source is a Hub id, or here a file (`.jsonl`, `.json`, `.csv`, each also `.gz`, `.parquet`, `.arrow`), a folder,
    or a glob. Training takes exactly one of `dataset_name`, `datasets` and `dataset_mixer_list`.

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
        datasets (`list[dict]`, *optional*):
            Several sources, each a name or a mapping with `name`, and if wanted `config`, `split` (default
            `"train"`), `revision`, `data_dir`, `amount` (as in `dataset_mixer_list`), `weight`, `column_map`,
            `format` and `test_split` (to evaluate on). On a command line, JSON.
        eval_datasets (`dict`, *optional*):
            Evaluation sets by their names, each a source, or a list of them, written like those of `datasets`. Every
            set is evaluated by itself.
        dataset_mixer_list (`list[str]`, *optional*):
            Sources of the training pairs, each followed by its amount: with a dot a fraction of the source (`1.0` is
            all of it), without a dot a number of pairs. An amount above the size takes pairs more than once.
        dataset_mixer_list_splits (`list[str]`, *optional*, defaults to `["train"]`):
            Splits of the training sources: one for all of them, or one for each.
        dataset_mixer_eval_list (`list[str]`, *optional*):
            Sources and amounts of the evaluation pairs.
        dataset_mixer_eval_list_splits (`list[str]`, *optional*):
            Splits of the evaluation sources: one for all of them, or one for each.
        eval_split_size (`float`, *optional*):
            Training pairs to evaluate on instead, whole prompts: below 1 a fraction, from 1 on a number of pairs.
        streaming (`bool`, *optional*, defaults to `False`):
            Whether to read the sources while training, instead of before it.

    Raises:
        `ConfigurationError`: A value cannot work; the message names the parameter, the value and what is expected.
    """

    dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "Training pairs: a Hub id, or a file (JSON Lines, JSON, CSV, Parquet, Arrow), folder or glob."
        },
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
        default=None, metadata={"help": "A second source, for evaluation: a Hub id, file, folder or glob."}
    )
    datasets: list[dict[str, Any]] | str | None = field(
        default=None,
        metadata={
            "help": "Instead of dataset_name: a list of sources, each with name, and config, split, revision, "
            "data_dir, amount, weight, column_map, format, test_split. JSON here, a list in a recipe."
        },
    )
    eval_datasets: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Evaluation sets by name, each a source like those of datasets. JSON here."},
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
    eval_split_size: float | None = field(
        default=None,
        metadata={"help": "Training pairs to evaluate on, whole prompts: below 1 a fraction, from 1 on a number."},
    )
    streaming: bool = field(
        default=False, metadata={"help": "Read the sources while training instead of before it; needs max_steps."}
    )

    def __post_init__(self) -> None:
        self.dataset_mixer_list = self.dataset_mixer_list or None
        self.dataset_mixer_eval_list = self.dataset_mixer_eval_list or None
        if self.datasets is not None:
            self.datasets = from_json(self.datasets, "`datasets`", list, "a list of sources")
        if self.eval_datasets is not None:
            self.eval_datasets = from_json(self.eval_datasets, "`eval_datasets`", dict, "sources by name")
        self._check_one_of(_TRAINING)
        self._check_one_of(_EVALUATION)
        self._check_belonging()
        for mixer in ("dataset_mixer_list", "dataset_mixer_eval_list"):
            self._check_mixer(mixer)
        self.train_specs()
        evaluation = self.eval_specs()
        self._check_split_size(bool(evaluation))

    def check_sources(self) -> None:
        """
        Checks that a training source is named; scripts that pass datasets of their own need none.

        Raises:
            `ConfigurationError`: None of the three is given.
        """
        if all(getattr(self, name) is None for name in _TRAINING):
            raise ConfigurationError(
                "`dataset_name`: found no training data; expected a Hub id or a file here, or a list of sources "
                "in `datasets`, or one of sources and amounts in `dataset_mixer_list`"
            )

    def train_specs(self) -> list[SourceSpec]:
        """The sources to train on, in their order."""
        if self.dataset_name is not None:
            return [self._spec(self.dataset_name, self.dataset_train_split)]
        if self.datasets is not None:
            entries = enumerate(self.datasets, start=1)
            return [read_source(one, f"`datasets`: entry {number}", "train") for number, one in entries]
        return _mixed(self.dataset_mixer_list, self.dataset_mixer_list_splits)

    def eval_specs(self) -> dict[str, list[SourceSpec]]:
        """The sources to evaluate on by the names of their sets; `"eval"` is the one without a name."""
        if isinstance(self.eval_datasets, dict):
            return {name: _named_set(name, value) for name, value in self.eval_datasets.items()}
        if self.eval_dataset_name is not None:
            unnamed = [self._spec(self.eval_dataset_name, self.dataset_test_split)]
        elif self.dataset_name is not None and self.dataset_test_split is not None:
            unnamed = [self._spec(self.dataset_name, self.dataset_test_split)]
        elif self.dataset_mixer_eval_list is not None:
            unnamed = _mixed(self.dataset_mixer_eval_list, self.dataset_mixer_eval_list_splits)
        else:
            unnamed = [_test_of(spec) for spec in self.train_specs() if spec.test_split is not None]
        return {"eval": unnamed} if unnamed else {}

    def _spec(self, name: str, split: str | None) -> SourceSpec:
        if name != self.dataset_name:  # configuration and revision belong to `dataset_name`
            return SourceSpec(name, split=split)
        return SourceSpec(name, self.dataset_config, split, self.dataset_revision)

    def _check_one_of(self, names: tuple[str, ...]) -> None:
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) > 1:
            raise ConfigurationError(f"`{given[0]}`: found together with `{given[1]}`; expected only one of the two")

    def _check_belonging(self) -> None:
        """A test split is that of one source; configuration and revision are those of `dataset_name`."""
        for several in _EVALUATION[1:]:
            if self.dataset_test_split is not None and getattr(self, several) is not None:
                raise ConfigurationError(
                    f"`dataset_test_split`: found together with `{several}`; expected only one of the two"
                )
        if self.dataset_name is not None:
            return
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

    def _check_split_size(self, evaluates: bool) -> None:
        size = self.eval_split_size
        if size is None:
            return
        if not size > 0 or (size >= 1 and size != int(size)):
            raise ConfigurationError(
                f"`eval_split_size`: found {size}; expected a fraction above 0 and below 1, or a number of pairs"
            )
        if evaluates:
            raise ConfigurationError(
                "`eval_split_size`: found together with a `test_split`; expected only one of the two"
            )
        if self.streaming:
            raise ConfigurationError(
                "`eval_split_size`: found together with `streaming`, which does not know the size; expected "
                "evaluation data of its own"
            )


def _mixed(mixer: list[str] | None, splits: list[str]) -> list[SourceSpec]:
    mixer = mixer or []
    parts = zip(mixer[::2], splits, mixer[1::2], strict=True) if mixer else ()
    return [SourceSpec(name, split=split, amount=amount) for name, split, amount in parts]


def _named_set(name: str, value: Any) -> list[SourceSpec]:
    if not isinstance(name, str) or not name.isidentifier():
        raise ConfigurationError(
            f"`eval_datasets`: found the name {name!r}; expected letters, digits and underscores: it goes into metrics"
        )
    values = value if isinstance(value, list) else [value]
    specs = [read_source(one, f"`eval_datasets`: {name}", None) for one in values]
    if not specs or any(spec.test_split is not None for spec in specs):
        raise ConfigurationError(f"`eval_datasets`: {name}: found {value!r}; expected a source, its split in `split`")
    return specs


def _test_of(spec: SourceSpec) -> SourceSpec:
    return replace(spec, split=spec.test_split, test_split=None, amount="1.0")
