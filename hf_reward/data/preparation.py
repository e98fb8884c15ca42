"""The data of a run: sources loaded, tokenised, dropped rows counted, splits joined, overlap of prompts refused."""

from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets
from transformers import PreTrainedTokenizerBase

from hf_reward.data.loading import Source
from hf_reward.data.report import SourceCount, refuse_empty, split_off_dropped, split_report
from hf_reward.data.tokenization import LengthLimits, tokenize_dataset
from hf_reward.errors import DataError


def prepare_split(
    sources: list[Source],
    tokenizer: PreTrainedTokenizerBase,
    split: str,
    limits: LengthLimits,
    num_proc: int | None = None,
) -> tuple[Dataset, dict[str, SourceCount]]:
    """
    Tokenise the sources of one split and join them, in order.

    Returns:
        The joined dataset of usable rows, and the counts by source name.

    Raises:
        `DataError`: No row is left, or some sources carry `margin` or `weight` and others do not.
    """
    parts, counts, shortest = [], {}, 0
    for source in sources:
        tokenized = tokenize_dataset(source.dataset, tokenizer, source.name, limits, num_proc)
        kept, count = split_off_dropped(tokenized)
        if not len(kept):
            lengths = np.asarray(tokenized["length"][:])
            shortest = int(lengths.min()) if len(lengths) else 0
        name = source.name
        while name in counts:  # the same source twice, say with two amounts
            name += "'"
        parts.append(kept)
        counts[name] = count
    columns = {frozenset(part.column_names) for part in parts}
    if len(columns) > 1:
        differing = sorted(frozenset.union(*columns) - frozenset.intersection(*columns))
        raise DataError(
            f"{split}: the column(s) {', '.join(differing)} stand in some sources and not in others. "
            "Give them to all, or remove them from all."
        )
    dataset = concatenate_datasets(parts) if len(parts) > 1 else parts[0]
    refuse_empty(dataset, counts, split, shortest, limits.max_length)
    return dataset, counts


def resolve_overlap(
    train: Dataset, evaluation: Dataset, policy: str, counts: dict[str, SourceCount]
) -> tuple[Dataset, int]:
    """
    Look for prompts that stand in both splits, and refuse them, drop the training rows, or allow them.

    Args:
        train, evaluation (`Dataset`): Tokenised splits.
        policy (`"error"`, `"drop"` or `"allow"`): What to do.
        counts (`dict[str, SourceCount]`): Training counts; dropped rows are added to the last source.

    Returns:
        The training rows to use, and the number of training rows whose prompt stands in the evaluation split.

    Raises:
        `DataError`: There is an overlap and the policy is `"error"`, or nothing is left after dropping.
    """
    keys = np.asarray(train.with_format("numpy")["prompt_key"][:])
    shared = np.isin(keys, np.unique(np.asarray(evaluation.with_format("numpy")["prompt_key"][:])))
    overlap = int(shared.sum())
    if overlap and policy == "error":
        raise DataError(
            f"{overlap} of {len(train)} training rows have a prompt that stands in the evaluation data too, so the "
            "evaluation would be of rows that were trained on. Separate the splits, or say `eval_overlap: drop` (the "
            "training rows go) or `eval_overlap: allow`."
        )
    if overlap and policy == "drop":
        next(reversed(counts.values())).dropped["prompt_in_evaluation"] += overlap
        train = train.select(np.flatnonzero(~shared))
        refuse_empty(train, counts, "train", int(keys.size), None)
    return train, overlap


def data_report(
    train: Dataset,
    train_counts: dict[str, SourceCount],
    evaluation: Dataset | None,
    eval_counts: dict[str, SourceCount],
    overlap: int,
    max_length: int | None,
) -> dict[str, Any]:
    """What `data_report.json` holds: each split described, and the number of overlapping prompts."""
    report: dict[str, Any] = {"train": split_report(train, train_counts, max_length)}
    if evaluation is not None:
        report["eval"] = split_report(evaluation, eval_counts, max_length)
    return report | {"overlapping_prompts": overlap}
