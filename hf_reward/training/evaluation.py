"""Evaluation whose metrics are exact: sums and records over pairs, each counted once on whatever processes."""

from typing import Any

import pyarrow.compute as pc
import torch
from accelerate.data_loader import BatchSamplerShard
from datasets import Dataset, IterableDataset
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput

from hf_reward.config import RewardConfig
from hf_reward.data.streams import EvenStream
from hf_reward.errors import ConfigurationError
from hf_reward.metrics import PairRecords, PreferenceSums
from hf_reward.training.objective import (
    PreferenceOutputs,
    complete_batch,
    pairs_of_groups,
    preference_outputs,
    reward_matrix,
)
from hf_reward.training.samples import SampleTable


class ExactEvaluation(Trainer):
    """The part of a reward trainer that counts pairs and evaluates."""

    args: RewardConfig
    samples: SampleTable

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The Trainer asks these two whether evaluation may compute a loss without `labels`.
        self.can_return_loss, self.label_names = True, []
        self._training_sums, self._evaluation_sums = PreferenceSums(), PreferenceSums()
        self._evaluation_records = PairRecords()
        self._widest_group = 2

    def _get_dataloader(self, dataset: Any, description: str, batch_size: int, *args: Any, **kwargs: Any) -> Any:
        """
        As in the Trainer, but that of a stream every process reads all and takes its part of each batch.

        Raises:
            `ConfigurationError`: Workers would read an evaluation stream, and not say where it ends.
        """
        processes, workers = self.accelerator.num_processes, self.args.dataloader_num_workers
        if isinstance(dataset, IterableDataset) and processes > 1:
            if workers and not kwargs.get("is_training"):
                raise ConfigurationError(
                    f"`dataloader_num_workers`: found {workers} with a stream to evaluate on {processes} processes; "
                    "expected 0, or a dataset in place of the stream"
                )
            dataset = EvenStream(dataset, batch_size * processes)
        return super()._get_dataloader(dataset, description, batch_size, *args, **kwargs)

    def _tell_where_the_stream_ended(self) -> None:
        """Let accelerate know how many rows of the last batch are real, so that it gathers no others."""
        loader: Any = self.accelerator.gradient_state.active_dataloader
        stream = getattr(getattr(loader, "dataset", None), "dataset", None)
        if isinstance(stream, EvenStream) and loader.end_of_dataloader and stream.count:
            loader.remainder = stream.count % stream.multiple

    def _ignore_repeated_rows(self, batch: dict[str, Any], batch_size: int) -> None:
        """Give weight 0 to the rows that accelerate repeats in the last batch to even out the processes."""
        state = self.accelerator.gradient_state
        if self.accelerator.num_processes == 1 or not state.end_of_dataloader:
            return
        remainder, loader = state.remainder, state.active_dataloader
        skipped = getattr(getattr(loader, "batch_sampler", None), "batch_sampler", None)
        if remainder < 0 and isinstance(skipped, BatchSamplerShard):
            # The loader of a resumed run, which skips the batches that were seen, does not know.
            remainder = len(loader.dataset) % (batch_size * self.accelerator.num_processes)
        if remainder <= 0:
            return
        weight = batch["weight"]
        place = torch.arange(len(weight), device=weight.device) + self.accelerator.process_index * batch_size
        batch["weight"] = weight * (place < remainder)

    def _add(self, sums: PreferenceSums, batch: dict[str, Any], outputs: PreferenceOutputs) -> None:
        counted = batch["weight"] > 0
        tokens = batch.get("group_tokens")
        sums.update(
            outputs.chosen_rewards,
            outputs.rejected_rewards,
            counted=counted[outputs.groups],
            loss=outputs.losses,
            weight=batch["weight"],
            tokens=batch["attention_mask"].sum() if tokens is None else (tokens * counted).sum(),
            decided=outputs.decided,
        )

    def _record(self, batch: dict[str, Any], outputs: PreferenceOutputs) -> None:
        """Keep every pair of an evaluation, for what sums do not tell."""
        tokens, subset = batch.get("completion_tokens"), batch.get("subset")
        self._evaluation_records.add(
            outputs.chosen_rewards,
            outputs.rejected_rewards,
            counted=outputs.decided & (batch["weight"] > 0)[outputs.groups],
            chosen_tokens=None if tokens is None else tokens[outputs.better],
            rejected_tokens=None if tokens is None else tokens[outputs.worse],
            subsets=None if subset is None else pairs_of_groups(subset, batch["group_sizes"]),
        )

    def _read(self, sums: PreferenceSums) -> dict[str, float]:
        """Metrics over all processes; every process must come here together."""
        several = self.accelerator.num_processes > 1
        reduce = (lambda tensor: self.accelerator.reduce(tensor, reduction="sum")) if several else None
        return sums.compute(reduce, self.args.device)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[None, Tensor, Tensor]:
        """
        Rewards of one evaluation batch; the exact metrics are summed on the side.

        Returns:
            No loss (it is a sum like the other metrics), the rewards and the column of the preferred completion.

        Shape:
            rewards: (G, k), NaN where a group has fewer than k completions, for pairs (P, 2); column: (G,), always 0.
            k is that of the largest group of the dataset, of a stream that of the batch.
        """
        batch = complete_batch(self._prepare_inputs(inputs))
        self._tell_where_the_stream_ended()
        self._ignore_repeated_rows(batch, self.args.eval_batch_size)
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = preference_outputs(model, batch, self.args)
        self._add(self._evaluation_sums, batch, outputs)
        self._record(batch, outputs)
        rewards = reward_matrix(outputs.rewards, batch["group_sizes"])
        # As wide as the widest batch, or the Trainer would fill up the others with -100, which could be a reward.
        rewards = nn.functional.pad(rewards, (0, max(self._widest_group - rewards.shape[1], 0)), value=float("nan"))
        return None, rewards, torch.zeros(len(rewards), dtype=torch.long, device=rewards.device)

    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """The Trainer's loop, with metrics over pairs that are exact for any batch size and number of processes."""
        self._evaluation_sums.reset()
        self._evaluation_records.reset()
        self._widest_group = widest_group(dataloader.dataset)
        # Rewards are always kept: two numbers a pair cost nothing.
        output = super().evaluation_loop(dataloader, description, False, ignore_keys, metric_key_prefix)
        metrics = self._read(self._evaluation_sums)
        metrics.pop("tokens", None)
        metrics |= {name: value for name, value in self._evaluation_records.compute().items() if name not in metrics}
        if self.is_world_process_zero():
            self.samples.take(dataloader.dataset, output.predictions, self.processing_class, metric_key_prefix)
        exact = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        return output._replace(metrics=exact | (output.metrics or {}))

    def _get_eval_sampler(self, eval_dataset: Any) -> torch.utils.data.Sampler[int] | None:
        """Evaluation goes through the data in its order, also where training groups it by length."""
        return torch.utils.data.SequentialSampler(eval_dataset) if hasattr(eval_dataset, "__len__") else None


def widest_group(dataset: Any) -> int:
    """
    Completions of the largest group of a tokenised dataset; 2 for pairs, and for a stream, which is not looked at.

    Examples:

    >>> widest_group(Dataset.from_dict({"completion_input_ids": [[[1], [2]], [[1], [2], [3]]]}))
    3
    """
    column = "completion_input_ids"
    if not isinstance(dataset, Dataset) or column not in dataset.column_names:
        return 2
    tables = dataset.select_columns(column).with_format("arrow").iter(1000)
    return max((pc.max(pc.list_value_length(table[column])).as_py() for table in tables), default=2)
