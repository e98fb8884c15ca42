"""From the names in a recipe to sources of preference pairs: opened, their format told, as much as was asked."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

from hf_reward.config.data_arguments import DataArguments
from hf_reward.config.source_specs import SourceSpec
from hf_reward.data.finding import open_source, short_name
from hf_reward.data.mixing import take_amount, take_from_stream
from hf_reward.data.ranked import RankedRule
from hf_reward.data.reading import OWN_COLUMNS, ReadingOptions, RowReader, detect_reader, rename
from hf_reward.errors import DataError


if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset


@dataclass
class Source:
    """One source of preference pairs, as many of its rows as were asked for.

    Attributes:
        name (`str`):
            The name for reports and messages: a Hub id, or the last part of a local path.
        dataset (`datasets.Dataset` or `datasets.IterableDataset`):
            The rows with their own columns, and the column `source_row`: the number of the row in its source, from 1
            (for JSON Lines the number of the line; in a folder, counted over its files in the order of their names).
        split (`str`):
            The split that was taken.
        reader (`RowReader`):
            What makes preference rows of the rows.
        eval_name (`str`, *optional*, defaults to `""`):
            The evaluation set that the source belongs to.
    """

    name: str
    dataset: "Dataset | IterableDataset"
    split: str
    reader: RowReader
    eval_name: str = ""


def load_sources(data_args: DataArguments, which: Literal["train", "eval"]) -> list[Source]:
    """Loads the training or the evaluation sources that a recipe names.

    A name is looked for as a local file, folder or glob, then on the Hub. Rows are what a file holds now: the cache
    is keyed by the bytes of the file, not by its date.

    Args:
        data_args (`DataArguments`):
            The names, splits, amounts, and what is asked of the rows.
        which (`str`):
            `"train"`, or `"eval"` for the sources of all evaluation sets.

    Returns:
        `list[Source]`: the sources in their order; empty if no evaluation data was asked for.

    Raises:
        `DataError`: if a source is missing, cannot be read, or has no rows or not the columns of a pair.
        `ConfigurationError`: if no training source is named, or a source does not have the split.
    """
    if which == "eval":
        return [source for sources in load_eval_sets(data_args).values() for source in sources]
    data_args.check_sources()
    return _load_all(data_args.train_specs(), data_args)


def load_eval_sets(data_args: DataArguments) -> dict[str, list[Source]]:
    """Loads the sources of each evaluation set, by its name; `"eval"` is the set without a name of its own.

    Raises:
        `DataError`, `ConfigurationError`: as [`load_sources`].
    """
    # One file has one split, whatever it is called where files are named for evaluation alone.
    any_split = data_args.eval_dataset_name is not None or data_args.eval_datasets is not None
    loaded = {name: _load_all(specs, data_args, any_split) for name, specs in data_args.eval_specs().items()}
    for name, sources in loaded.items():
        for source in sources:
            source.eval_name = name
    return loaded


def reading_options(data_args: DataArguments, spec: SourceSpec) -> ReadingOptions:
    """What is asked of the rows of a source: what its own entry says, else what is said for all."""
    column_map = data_args.column_map if isinstance(data_args.column_map, dict) else {}
    return ReadingOptions(
        column_map=spec.column_map or column_map,
        dataset_format=spec.format or data_args.dataset_format,
        on_bad_row=data_args.on_bad_row,
        score_column=data_args.score_column,
        weight=spec.weight,
        ranked=RankedRule(
            data_args.ranked_to_pairs,
            data_args.min_score_gap,
            data_args.margin_from_scores,
            data_args.equal_scores,
        ),
    )


def _load_all(specs: list[SourceSpec], data_args: DataArguments, any_split: bool = False) -> list[Source]:
    sources: list[Source] = []
    for spec in specs:
        name = short_name(spec.name, [source.name for source in sources])
        sources.append(_load(spec, name, data_args, any_split))
    return sources


def _load(spec: SourceSpec, name: str, data_args: DataArguments, any_split: bool) -> Source:
    from datasets import Dataset

    opened = open_source(spec, data_args.streaming, data_args.on_bad_row == "drop", any_split)
    dataset, options = opened.dataset, reading_options(data_args, spec)
    reader = replace(detect_reader(dataset, name, options), files=opened.files)
    if isinstance(dataset, Dataset) and len(dataset) == 0:
        raise DataError(
            f"{name}: the split {opened.split} is empty (expected preference pairs). Give a set with rows."
        )
    if reader.format == "helpsteer2":
        dataset = answers_together(dataset, options.column_map)
        reader = replace(reader, options=replace(options, column_map={}))
    if isinstance(dataset, Dataset):
        dataset = take_amount(dataset, spec.amount, name)
    else:
        dataset = take_from_stream(dataset, spec.amount, name)
    return Source(name, dataset, opened.split, reader)


def answers_together(
    dataset: "Dataset | IterableDataset", column_map: dict[str, str | None]
) -> "Dataset | IterableDataset":
    """
    One row for each run of rows with the same `prompt`, the other columns as lists; rated answers stand like that.

    Args:
        dataset (`Dataset` or `IterableDataset`): Rows with one answer each.
        column_map (`dict[str, str | None]`): Our names for columns.

    Returns:
        The dataset, of the same kind.
    """
    arguments = {"rows": dataset, "column_map": column_map}
    loaded: Dataset | IterableDataset = type(dataset).from_generator(_runs_of_a_prompt, gen_kwargs=arguments)
    return loaded


def _runs_of_a_prompt(rows: Iterable[dict[str, Any]], column_map: dict[str, str | None]) -> Iterator[dict[str, Any]]:
    named = (rename(row, column_map) for row in rows)
    for (prompt, _), run in groupby(named, key=lambda row: (row.get("prompt"), row.get("source_error"))):
        answers = list(run)
        first = answers[0]
        lists = {column: [row.get(column) for row in answers] for column in first if column not in OWN_COLUMNS}
        yield lists | {"prompt": prompt} | {column: first[column] for column in OWN_COLUMNS if column in first}
