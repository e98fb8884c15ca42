"""The data of a run: sources tokenised and joined, filters, evaluation rows set apart, overlap of prompts refused."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset, concatenate_datasets
from transformers import PreTrainedTokenizerBase

from hf_reward.data.accounts import SourceCount, SplitRows
from hf_reward.data.cache import build_once, cache_key
from hf_reward.data.columns import EXTRA_TYPES, NEUTRAL
from hf_reward.data.filters import Filters
from hf_reward.data.loading import Source
from hf_reward.data.mixing import split_by_prompt
from hf_reward.data.report import check_dropped, split_report
from hf_reward.data.tokenization import RowRules, keep_usable, tokenize_dataset
from hf_reward.errors import DataError


logger = logging.getLogger(__name__)


def prepare_split(
    sources: Sequence[Source],
    tokenizer: PreTrainedTokenizerBase,
    split: str,
    rules: RowRules,
    filters: Filters,
    num_proc: int | None = None,
    cache_dir: Path | None = None,
) -> SplitRows:
    """
    Tokenise the sources of one split, join them in order, and filter them.

    Args:
        sources (`Sequence[Source]`): What `hf_reward.data.loading` gave.
        tokenizer (`PreTrainedTokenizerBase`): A tokenizer that went through `prepare_tokenizer`.
        split (`str`): Name of the split, for messages.
        rules (`RowRules`), filters (`Filters`): What is asked of rows, and of the split.
        num_proc (`int`, *optional*): Worker processes.
        cache_dir (`Path`, *optional*): Where tokenised sources are stored; without it nothing is stored.

    Returns:
        `SplitRows`: All rows, and what became of each.

    Raises:
        `DataError`: A row is not a preference pair, or no row is left.
    """
    rules = replace(rules, as_groups=any(source.reader.keeps_groups for source in sources))
    parts = [_tokenize(source, tokenizer, rules, num_proc, cache_dir) for source in sources]
    parts, filled = _same_columns(parts)
    rows = SplitRows.join(parts, _distinct([source.name for source in sources]))
    rows.extra_notes += filled
    for reason, found in filters.reasons(rows.number, rows.source, rows.kept).items():
        dropped = rows.drop(found, reason)
        if dropped and reason == "contradictory":
            logger.warning("%s: %d pairs stand in both orders; all of them are dropped", split, dropped)
    check_dropped(rows, split, rules.limits.max_length)
    return rows


def prepare_stream(
    sources: Sequence[Source],
    tokenizer: PreTrainedTokenizerBase,
    rules: RowRules,
    filters: Filters,
    counts: dict[str, SourceCount] | None = None,
) -> IterableDataset:
    """
    Tokenise streams, one after another, while they are read; rows are filtered one by one.

    Filters of whole splits would need all rows at hand, and are off; that is said. `counts`, if it is given, gets the
    rows of each source as they are read, in this process, and again in every pass over them.
    """
    if filters != Filters(drop_contradictory=False, drop_duplicates=False):
        logger.info("a stream is filtered row by row: contradictory and repeated pairs are not looked for")
    rules = replace(rules, as_groups=any(source.reader.keeps_groups for source in sources))
    counted = dict(zip(_distinct([source.name for source in sources]), (SourceCount() for _ in sources), strict=True))
    if counts is not None:
        counts |= counted
    parts = [
        keep_usable(tokenize_dataset(source.dataset, source.reader, tokenizer, source.name, rules), count)
        for source, count in zip(sources, counted.values(), strict=True)
    ]
    return concatenate_datasets(parts) if len(parts) > 1 else parts[0]


def guard_stream(
    stream: IterableDataset, evaluations: Mapping[str, SplitRows | IterableDataset], policy: str
) -> IterableDataset:
    """
    Watch a training stream for prompts of the evaluation data: leave them out, or stop at the first one.

    Args:
        stream (`IterableDataset`): Tokenised rows.
        evaluations (`Mapping`): Evaluation sets by name; those that are streams are read once for their prompts.
        policy (`"error"`, `"drop"` or `"allow"`): What to do.
    """
    if policy == "allow" or not evaluations:
        return stream
    held_out: set[int] = set()
    for rows in evaluations.values():
        keys = rows.of_kept("prompt_key").tolist() if isinstance(rows, SplitRows) else _keys(rows)
        held_out.update(keys)

    def trains(prompt_key: int) -> bool:
        if prompt_key in held_out and policy == "error":
            raise DataError(
                "The training stream has a prompt that stands in the evaluation data too. Separate the splits, or say "
                "`eval_overlap: drop` (the training rows go) or `eval_overlap: allow`."
            )
        return prompt_key not in held_out

    return stream.filter(trains, input_columns="prompt_key")


def _keys(stream: IterableDataset) -> Iterator[int]:
    return (row["prompt_key"] for row in stream.select_columns("prompt_key"))


def set_evaluation_apart(train: SplitRows, size: float, seed: int) -> SplitRows:
    """Take rows for evaluation out of the training rows, so that all rows with one prompt are on one side."""
    chosen = np.zeros(len(train.reason), dtype=bool)
    chosen[train.kept] = split_by_prompt(train.of_kept("prompt_key"), size, seed)
    evaluation = train.set_apart(chosen)
    train.extra_notes["set_apart_for_evaluation"] = int(evaluation.member.sum())
    return evaluation


def resolve_overlap(train: SplitRows, evaluations: Mapping[str, SplitRows], policy: str) -> dict[str, int]:
    """
    Look for prompts that stand in training and in evaluation, and refuse them, drop the training rows, or allow them.

    Args:
        train (`SplitRows`), evaluations (`Mapping[str, SplitRows]`): The splits; evaluation sets by name.
        policy (`"error"`, `"drop"` or `"allow"`): What to do.

    Returns:
        `dict[str, int]`: For every evaluation set the number of training rows whose prompt stands in it.

    Raises:
        `DataError`: There is an overlap and the policy is `"error"`, or nothing is left after dropping.
    """
    keys = train.of_kept("prompt_key")
    shared = {name: np.isin(keys, rows.of_kept("prompt_key")) for name, rows in evaluations.items()}
    overlap = {name: int(found.sum()) for name, found in shared.items()}
    if any(overlap.values()) and policy == "error":
        sets = ", ".join(f"{name}: {count}" for name, count in overlap.items() if count)
        raise DataError(
            f"{int(np.any(list(shared.values()), axis=0).sum())} of {len(keys)} training rows have a prompt that "
            f"stands in the evaluation data too ({sets}), so the evaluation would be of rows that were trained on. "
            "Separate the splits, or say `eval_overlap: drop` (the training rows go) or `eval_overlap: allow`."
        )
    if any(overlap.values()) and policy == "drop":
        found = np.zeros(len(train.reason), dtype=bool)
        found[train.kept] = np.any(list(shared.values()), axis=0)
        train.drop(found, "prompt_in_evaluation")
        check_dropped(train, "train", None)
    return overlap


def data_report(
    train: SplitRows | None,
    evaluations: Mapping[str, SplitRows],
    overlap: Mapping[str, int],
    max_length: int | None,
) -> dict[str, Any]:
    """
    What `data_report.json` holds: every split described, and the number of overlapping prompts.

    The one evaluation set without a name is `eval`, others are `eval_` and their name. Streams are not in it; a
    training stream is described after training, by its counts.
    """
    report: dict[str, Any] = {} if train is None else {"train": split_report(train, max_length)}
    for name, rows in evaluations.items():
        report[report_key(name)] = split_report(rows, max_length) | {"overlapping_prompts": overlap.get(name, 0)}
    return report | {"overlapping_prompts": sum(overlap.values())}


def report_key(name: str) -> str:
    """
    The key of an evaluation set in the report.

    Examples:

    >>> report_key("eval"), report_key("helpful")
    ('eval', 'eval_helpful')
    """
    return name if name == "eval" else f"eval_{name}"


def _tokenize(
    source: Source,
    tokenizer: PreTrainedTokenizerBase,
    rules: RowRules,
    num_proc: int | None,
    cache_dir: Path | None,
) -> Dataset:
    def build(file: Path | None = None, fingerprint: str | None = None) -> Dataset:
        return tokenize_dataset(
            source.dataset, source.reader, tokenizer, source.name, rules, num_proc, file, fingerprint
        )

    if cache_dir is None:
        return build()
    key = cache_key(source.dataset, source.reader, tokenizer, rules)
    return build_once(cache_dir, key, source.name, lambda file: build(file, key))


def _same_columns(parts: list[Dataset]) -> tuple[list[Dataset], Counter[str]]:
    """Give every part the optional columns that some have, with values that change nothing; count the rows filled."""
    filled: Counter[str] = Counter()
    columns = [name for name in EXTRA_TYPES if any(name in part.column_names for part in parts)]
    whole = []
    for part in parts:
        for name in columns:
            if name not in part.column_names:
                values = [NEUTRAL[name]] * len(part)
                part = part.add_column(name, values, feature=EXTRA_TYPES[name])
                filled[f"{name}_filled_in"] += len(part)
        whole.append(part.select_columns([*(c for c in part.column_names if c not in columns), *columns]))
    return whole, filled


def _distinct(names: Sequence[str]) -> list[str]:
    """Names with a mark where the same source stands twice, say with two amounts."""
    distinct: list[str] = []
    for name in names:
        while name in distinct:
            name += "'"
        distinct.append(name)
    return distinct
