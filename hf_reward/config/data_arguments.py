"""What is done with the preference data of a run: how rows are read, what is dropped, what is kept prepared."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin, get_type_hints

from hf_reward.config.source_arguments import SourceArguments
from hf_reward.config.source_specs import DatasetFormat, from_json, parse_amount, read_column_map
from hf_reward.errors import ConfigurationError


__all__ = ["DataArguments", "DatasetFormat", "parse_amount"]

EvalOverlap = Literal["error", "drop", "allow"]
OnBadRow = Literal["error", "drop"]
RankedToPairs = Literal["none", "all_pairs", "best_vs_each", "best_vs_worst"]
EqualScores = Literal["drop", "tie"]


@dataclass
class DataArguments(SourceArguments):
    """
    The data of a run: the parameters of [`SourceArguments`], and what is done with the rows.

    Parameters:
        column_map (`dict[str, str | None]`, *optional*):
            Names of columns here, by their names in the sources; no name leaves a column out.
        dataset_format (`str`, *optional*):
            Format of the rows of all sources. Not set: found for each source from its columns and first rows.
        on_bad_row (`str`, *optional*, defaults to `"error"`):
            Whether a row that cannot be read stops the run, or is counted as `bad_row` (`"drop"`).
        ranked_to_pairs (`str`, *optional*, defaults to `"none"`):
            What ranked completions become: one group (`"none"`), or pairs: `"all_pairs"`, `"best_vs_each"`,
            `"best_vs_worst"`.
        min_score_gap (`float`, *optional*, defaults to 0.0):
            Smallest difference between the scores of a pair; closer pairs are dropped and counted.
        margin_from_scores (`bool`, *optional*, defaults to `False`):
            Whether the difference of its scores becomes the `margin` of a pair.
        equal_scores (`str`, *optional*, defaults to `"drop"`):
            Whether a pair of equal scores is dropped and counted, or a tie (`"tie"`).
        score_column (`str`, *optional*):
            Which of several scores of a completion counts, such as `"helpfulness"`.
        drop_identical (`bool`, *optional*, defaults to `True`):
            Whether rows whose completions are equal are dropped and counted.
        drop_empty (`bool`, *optional*, defaults to `True`):
            Whether rows with an empty completion are dropped and counted.
        drop_contradictory (`bool`, *optional*, defaults to `True`):
            Whether pairs that stand in both orders are dropped and counted, all of them.
        drop_duplicates (`bool`, *optional*, defaults to `True`):
            Whether repetitions of a pair are dropped and counted; copies made by an amount above 1.0 stay.
        eval_overlap (`str`, *optional*, defaults to `"error"`):
            What to do when a prompt stands in training and evaluation: `"error"`, `"drop"` (from training) or
            `"allow"`.
        dataset_cache_dir (`str`, *optional*):
            Folder for tokenised data. Not set: `hf_reward` in the cache of the datasets library.
        dataset_skip_cache (`bool`, *optional*, defaults to `False`):
            Whether to tokenise anew and to store nothing.
        cache_dataset_only (`bool`, *optional*, defaults to `False`):
            Whether to stop when the data is prepared and stored.
        dry_run (`bool`, *optional*, defaults to `False`):
            Whether to resolve, tokenise and show everything, and train nothing.

    Raises:
        `ConfigurationError`: A value cannot work; the message names the parameter, the value and what is expected.
    """

    column_map: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Our names for columns, by theirs: {theirs: ours}; null leaves one out. JSON here."},
    )
    dataset_format: DatasetFormat | None = field(
        default=None, metadata={"help": "Format of the rows. Not set: found from columns and first rows."}
    )
    on_bad_row: OnBadRow = field(
        default="error", metadata={"help": "A row that cannot be read: stop with an error, or drop and count it."}
    )
    ranked_to_pairs: RankedToPairs = field(
        default="none",
        metadata={"help": "Ranked completions: kept as one group (none), or the pairs to make of them."},
    )
    min_score_gap: float = field(
        default=0.0, metadata={"help": "Smallest difference between the scores of a pair; closer ones are dropped."}
    )
    margin_from_scores: bool = field(
        default=False, metadata={"help": "Make the difference of the scores the margin of a pair."}
    )
    equal_scores: EqualScores = field(default="drop", metadata={"help": "A pair of equal scores: drop it, or a tie."})
    score_column: str | None = field(
        default=None, metadata={"help": "Which of several scores of a completion counts. Not set: the overall one."}
    )
    drop_identical: bool = field(default=True, metadata={"help": "Drop rows whose completions are equal."})
    drop_empty: bool = field(default=True, metadata={"help": "Drop rows with an empty completion."})
    drop_contradictory: bool = field(
        default=True, metadata={"help": "Drop pairs that stand in both orders (all of them)."}
    )
    drop_duplicates: bool = field(
        default=True, metadata={"help": "Drop repetitions of a pair; copies made by an amount above 1.0 stay."}
    )
    eval_overlap: EvalOverlap = field(
        default="error",
        metadata={
            "help": "When a prompt stands in training and evaluation: stop with an error, drop it from training, "
            "or allow it."
        },
    )
    dataset_cache_dir: str | None = field(
        default=None,
        metadata={"help": "Folder for tokenised data. Not set: hf_reward in the cache of the datasets library."},
    )
    dataset_skip_cache: bool = field(default=False, metadata={"help": "Tokenise anew and store nothing."})
    cache_dataset_only: bool = field(default=False, metadata={"help": "Prepare and store the data, then stop."})
    dry_run: bool = field(
        default=False, metadata={"help": "Resolve, tokenise and show everything; train and write nothing."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.column_map is not None:
            columns = from_json(self.column_map, "`column_map`", dict, "names of columns by their names")
            self.column_map = read_column_map(columns, "`column_map`")
        for name, hint in get_type_hints(DataArguments).items():
            choices = _choices(hint)
            if choices and getattr(self, name) not in choices:
                words = ", ".join(str(choice) for choice in choices if choice is not None)
                raise ConfigurationError(f"`{name}`: found {getattr(self, name)!r}; expected one of {words}")
        if not (math.isfinite(self.min_score_gap) and self.min_score_gap >= 0):
            raise ConfigurationError(f"`min_score_gap`: found {self.min_score_gap}; expected a number, 0 or more")


def _choices(hint: Any) -> tuple[Any, ...]:
    """The values that a `Literal`, or one or none of them, allows; nothing for other types."""
    members = get_args(hint)
    if get_origin(hint) is Literal:
        return members
    literal = next((member for member in members if get_origin(member) is Literal), None)
    return (*get_args(literal), None) if literal is not None else ()
