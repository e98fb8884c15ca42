"""The batches of a trainer: their layout, chosen and proved, and which rows stand together."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from datasets import Dataset
from torch import nn
from torch.utils.data import DataLoader, Sampler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_reward.config import RewardConfig
from hf_reward.data.batching import LengthGroupedSampler, TokenBudgetSampler, row_tokens
from hf_reward.data.collator import PreferenceCollator
from hf_reward.modeling.adapters import base_model
from hf_reward.modeling.layout import LayoutChoice, prove_layout, telling_rows
from hf_reward.modeling.score_head import bind_reward_forward, release_reward_forward, restore_reward_forward
from hf_reward.modeling.shared_prompt import ATTENTION, use_attention
from hf_reward.training.whole_checkpoints import WholeCheckpoints


logger = logging.getLogger(__name__)


class LaidOutBatches(WholeCheckpoints):
    """
    A Trainer that binds the reward forward to its model, and lays its batches out as `choice` says, once that was seen
    to give the right rewards.

    The comparison is made when the first data loader is asked for, on the model itself, or, where DeepSpeed or FSDP
    hold its weights in parts, through their engine before the first training step; until then rows are padded.
    """

    args: RewardConfig
    model: Any
    _proved = False
    _sampler: Any = None
    # The attention implementation that the model came with, while ours stands in its place.
    _attention_before: str | None = None

    def __init__(self, *args: Any, choice: LayoutChoice, model_is_the_users: bool, **kwargs: Any) -> None:
        self.choice = choice
        super().__init__(*args, **kwargs)
        self._lay_out(choice)
        self.add_callback(_OnTrainBegin(self))
        self._model_is_the_users = model_is_the_users
        self._reward_forward_in_use = False
        self._released: dict[nn.Module, Any] = release_reward_forward(self.model) if model_is_the_users else {}

    # ---- the model's forward ----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def reward_forward(self) -> Iterator[None]:
        """Bind the reward forward for as long as it is needed; a model of ours keeps it."""
        if self._released:
            restore_reward_forward(self._released)
            self._released = {}
        bind_reward_forward(base_model(self.model))
        outermost = not self._reward_forward_in_use
        self._reward_forward_in_use = True
        self._use_attention()
        try:
            yield
        finally:
            if outermost:
                self._reward_forward_in_use = False
                if self._model_is_the_users:
                    self._released = release_reward_forward(self.model)
                    self._give_attention_back()

    def _use_attention(self) -> None:
        """Let the model attend within the groups of a row, if it was seen to do that right."""
        if self._proved and self.choice.layout != "padded" and self._attention_before is None:
            self._attention_before = use_attention(base_model(self.model))

    def _give_attention_back(self) -> None:
        """Let the model attend as it did before."""
        if self._attention_before not in (None, ATTENTION):
            base_model(self.model).set_attn_implementation(self._attention_before)
        self._attention_before = None

    # ---- layout -----------------------------------------------------------------------------------------------------

    def _lay_out(self, choice: LayoutChoice) -> None:
        self.choice = choice
        if isinstance(self.data_collator, PreferenceCollator):
            self.data_collator.layout = choice.layout

    @property
    def _weights_lie_in_parts(self) -> bool:
        return bool(self.is_deepspeed_enabled or self.is_fsdp_enabled)

    def prove_layout(self, dataset: Any, model: nn.Module | None = None) -> None:
        """
        See once that the chosen layout gives the rewards of the padded one, or fall back to one that does.

        Args:
            dataset: Tokenised rows from which the telling ones are taken.
            model (`nn.Module`, *optional*): The engine around the model; without it, the model itself.
        """
        if self._proved or (model is None and self._weights_lie_in_parts):
            return
        collator = self.data_collator
        if self.choice.layout != "padded" and isinstance(collator, PreferenceCollator):
            half = self._half_precision()
            rows = telling_rows(dataset, half is not None)
            with self.reward_forward():
                proved = prove_layout(model or self.model, self.choice, rows, collator, half)
            self._lay_out(self._agree(proved))
        self._proved = True
        if self._reward_forward_in_use:
            self._use_attention()
        if self.is_world_process_zero():
            logger.info("batch layout: %s (%s)", self.choice.layout, self.choice.reason)

    def _half_precision(self) -> torch.dtype | None:
        """The half precision in which layouts must be compared, because the model cannot compute in float32 here."""
        embedding: Any = base_model(self.model).get_input_embeddings()
        weights: torch.dtype = embedding.weight.dtype
        if weights in (torch.bfloat16, torch.float16):
            return weights
        if self.args.device.type != "cuda" and not self._weights_lie_in_parts:
            return None
        return torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else None

    @contextlib.contextmanager
    def padded_until_proved(self) -> Iterator[None]:
        """Where the comparison has to wait for an engine, evaluate padded rows."""
        choice = self.choice
        waiting = self._weights_lie_in_parts and not self._proved
        if waiting:
            self._lay_out(LayoutChoice("padded", "not compared yet"))
        try:
            yield
        finally:
            if waiting:
                self._lay_out(choice)

    # ---- rows of a batch --------------------------------------------------------------------------------------------

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """As in [`~transformers.Trainer`], once the layout of the batches is settled."""
        self.prove_layout(self.eval_dataset if eval_dataset is None or isinstance(eval_dataset, str) else eval_dataset)
        return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader[Any]:
        """As in [`~transformers.Trainer`], once the layout of the batches is settled."""
        self.prove_layout(test_dataset)
        return super().get_test_dataloader(test_dataset)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """As in [`~transformers.Trainer`]; with `max_tokens_per_batch`, batches of a token budget."""
        dataset: Any = self.train_dataset
        self.prove_layout(dataset)
        if self.args.max_tokens_per_batch is None or not isinstance(dataset, Dataset):
            return super().get_train_dataloader()
        layout = self.choice.layout
        multiple: Any = self.args.pad_to_multiple_of  # a number or None since `args` was made
        self._sampler = TokenBudgetSampler(
            row_tokens(dataset, layout, multiple or 1),
            self.args.max_tokens_per_batch,
            padded=layout == "padded",
            seed=self._order_seed,
            rank=self.args.process_index,
            processes=self.args.world_size,
        )
        loader = DataLoader(
            self._remove_unused_columns(dataset, description="training"),
            batch_sampler=self._sampler,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
        )
        # The sampler gives each process its own batches, so nothing is left to divide among them.
        prepared: DataLoader[Any] = prepare_data_loader(
            loader, self.accelerator.device, num_processes=1, process_index=0, put_on_device=True, even_batches=False
        )
        return prepared

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        """As in [`~transformers.Trainer`]; padded rows are grouped by length where that was left to us."""
        dataset: Any = self.train_dataset if train_dataset is None else train_dataset
        strategy, padded = self.args.train_sampling_strategy, self.choice.layout == "padded"
        ours = strategy == "group_by_length" or (strategy == "random" and padded and self.args.batch_layout == "auto")
        if not ours or not isinstance(dataset, Dataset) or "length" not in dataset.column_names:
            sampler: Sampler[int] | None = super()._get_train_sampler(train_dataset)
            return sampler
        together = self.args.train_batch_size * self.args.world_size
        grouped = LengthGroupedSampler(dataset["length"][:], together, self._order_seed)
        self._sampler = grouped
        return grouped

    @property
    def _order_seed(self) -> int:
        return int(self.args.seed if self.args.data_seed is None else self.args.data_seed)


class _OnTrainBegin(TrainerCallback):
    """Compare layouts once the engine stands, and tell the sampler which epoch it is."""

    def __init__(self, trainer: LaidOutBatches) -> None:
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Through DeepSpeed's or FSDP's engine."""
        self.trainer.prove_layout(self.trainer.train_dataset, self.trainer.model_wrapped)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The order of rows is a function of seed and epoch, also in a run that is resumed."""
        if self.trainer._sampler is not None:
            self.trainer._sampler.set_epoch(int(state.epoch or 0))
