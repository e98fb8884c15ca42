"""The data of a run: sources loaded, tokenised (or taken from the cache), filtered and accounted for."""

import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerBase

from hf_reward.config import DataArguments, RewardConfig
from hf_reward.data.accounts import SourceCount, SplitRows
from hf_reward.data.cache import default_cache_dir
from hf_reward.data.filters import Filters
from hf_reward.data.loading import Source, load_eval_sets, load_sources
from hf_reward.data.preparation import (
    data_report,
    guard_stream,
    prepare_split,
    prepare_stream,
    report_key,
    resolve_overlap,
    set_evaluation_apart,
)
from hf_reward.data.report import counts_report
from hf_reward.errors import ConfigurationError
from hf_reward.training.setup import check_batches, check_columns_of, row_rules, within_positions


logger = logging.getLogger(__name__)

Tokenized: TypeAlias = Dataset | IterableDataset


@dataclass
class RunData:
    """
    Tokenised splits of a run, and the account of what was kept and dropped.

    Attributes:
        train (`Dataset` or `IterableDataset`): Pairs to train on.
        evaluation (`Dataset`, `IterableDataset`, or a `dict` of them, *optional*): One set, or several by name.
        report (`dict`): As in `data_report.json`.
        streamed (`dict`): By split, the rows of its streams by source, counted as they are read.
    """

    train: Tokenized
    evaluation: Tokenized | dict[str, Tokenized] | None
    report: dict[str, Any]
    streamed: dict[str, dict[str, SourceCount]] = field(default_factory=dict)

    def report_training_stream(self) -> None:
        """Put what was read of a training stream so far into the report."""
        counts = self.streamed.get("train", {})
        if any(count.rows for count in counts.values()):
            self.report["train"] = counts_report(counts)
        elif counts:
            logger.info("the rows of the training stream were read by workers (dataloader_num_workers): not counted")

    def count_streams(self) -> None:
        """Read every stream to its end, once, and put its rows into the report."""
        for name, counts in self.streamed.items():
            for count in counts.values():
                count.rows, count.dropped = 0, Counter()
            for _ in self.splits()[name]:
                pass
            self.report["train" if name == "train" else report_key(name)] = counts_report(counts)

    def splits(self) -> dict[str, Tokenized]:
        """All splits by name."""
        if self.evaluation is None:
            return {"train": self.train}
        sets = self.evaluation if isinstance(self.evaluation, dict) else {"eval": self.evaluation}
        return {"train": self.train, **sets}


def load_data(
    args: RewardConfig, data_args: DataArguments, tokenizer: PreTrainedTokenizerBase, check: bool = True
) -> RunData:
    """
    Load and tokenise the splits, account for every row, and see that a run can work with them.

    Args:
        args (`RewardConfig`), data_args (`DataArguments`): The settings.
        tokenizer (`PreTrainedTokenizerBase`): A tokenizer that went through `prepare_tokenizer`.
        check (`bool`, *optional*, defaults to `True`): Refuse what only matters to training.

    Raises:
        `ConfigurationError`: Evaluation is asked for without data, or a column is there that no loss uses.
        `DataError`: The data is not what preference data must be.
    """
    with args.main_process_first(desc="data"):
        eval_sets = load_eval_sets(data_args)
        asked = args.num_evals or args.eval_strategy != "no" or args.load_best_model_at_end
        if check and asked and not eval_sets and not data_args.eval_split_size:
            raise ConfigurationError(
                "Evaluation is asked for (`eval_strategy`, `num_evals` or `load_best_model_at_end`), but there is no "
                "evaluation data. Name it by `eval_dataset_name` or `dataset_test_split`, or set `eval_split_size`."
            )
        sources = load_sources(data_args, "train")
        streamed: dict[str, dict[str, SourceCount]] = {}
        evaluations = {
            name: _prepare(name, parts, args, data_args, tokenizer, streamed) for name, parts in eval_sets.items()
        }
        train = _prepare("train", sources, args, data_args, tokenizer, streamed)
        data = _join(train, evaluations, args, data_args)
        data.streamed = streamed
    if check:
        for name, dataset in data.splits().items():
            check_columns_of(dataset, args, name)
            check_batches(dataset, args, name)
    return data


def _prepare(
    split: str,
    sources: list[Source],
    args: RewardConfig,
    data_args: DataArguments,
    tokenizer: PreTrainedTokenizerBase,
    streamed: dict[str, dict[str, SourceCount]],
) -> SplitRows | IterableDataset:
    rules = row_rules(args, drop_identical=data_args.drop_identical, drop_empty=data_args.drop_empty)
    filters = Filters(data_args.drop_contradictory, data_args.drop_duplicates)
    if any(isinstance(source.dataset, IterableDataset) for source in sources):
        return prepare_stream(sources, tokenizer, rules, filters, streamed.setdefault(split, {}))
    folder = Path(data_args.dataset_cache_dir).expanduser() if data_args.dataset_cache_dir else default_cache_dir()
    cache_dir = None if data_args.dataset_skip_cache else folder
    return prepare_split(sources, tokenizer, split, rules, filters, args.dataset_num_proc, cache_dir)


def _join(
    train: SplitRows | IterableDataset,
    evaluations: dict[str, SplitRows | IterableDataset],
    args: RewardConfig,
    data_args: DataArguments,
) -> RunData:
    """Set evaluation rows apart, look for overlap, and describe it all but streams, which are not read yet."""
    counted = {name: rows for name, rows in evaluations.items() if isinstance(rows, SplitRows)}
    if isinstance(train, IterableDataset):
        stream = guard_stream(train, evaluations, data_args.eval_overlap)
        return RunData(stream, _sets(evaluations), data_report(None, counted, {}, args.max_length))
    if data_args.eval_split_size:
        evaluations["eval"] = counted["eval"] = set_evaluation_apart(
            train, data_args.eval_split_size, args.data_seed if args.data_seed is not None else args.seed
        )
    overlap = resolve_overlap(train, counted, data_args.eval_overlap)
    report = data_report(train, counted, overlap, args.max_length)
    return RunData(train.dataset(), _sets(evaluations), report)


def _sets(evaluations: dict[str, SplitRows | IterableDataset]) -> Tokenized | dict[str, Tokenized] | None:
    sets = {name: rows.dataset() if isinstance(rows, SplitRows) else rows for name, rows in evaluations.items()}
    # The Trainer prefixes the metrics of named sets with their names.
    return sets.get("eval") if len(sets) <= 1 and set(sets) <= {"eval"} else sets


def check_positions(data: RunData, limit: int | None) -> None:
    """
    Refuse sequences that are longer than the model has positions for; those of a stream when they are read.

    Raises:
        `DataError`: There is one; the message names the limit to set.
    """
    data.train = within_positions(data.train, limit, "train")
    if isinstance(data.evaluation, dict):
        data.evaluation = {name: within_positions(part, limit, name) for name, part in data.evaluation.items()}
    elif data.evaluation is not None:
        data.evaluation = within_positions(data.evaluation, limit, "eval")
