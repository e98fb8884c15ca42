"""RewardTrainer: the transformers Trainer, told how to read rewards, what the loss is, and how to count."""

import contextlib
import logging
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import torch
from datasets import Dataset, IterableDataset
from peft import PeftConfig, PeftModel
from torch import Tensor, nn
from transformers import DataCollator, PreTrainedModel, TrainerCallback
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.trainer_utils import EvalPrediction

from hf_reward.config import RewardConfig
from hf_reward.data.collator import PreferenceCollator
from hf_reward.data.columns import GOING_ALONG, LEARNED_FROM
from hf_reward.errors import ConfigurationError
from hf_reward.modeling.adapters import base_model, save_model
from hf_reward.modeling.layout import LayoutChoice, choose_layout
from hf_reward.modeling.loading import longest_input
from hf_reward.modeling.saved import check_saved_weights
from hf_reward.training.batches import LaidOutBatches
from hf_reward.training.callbacks import EvaluationSchedule, SeenCounters, SuspiciousNumbers
from hf_reward.training.evaluation import ExactEvaluation
from hf_reward.training.objective import (
    PreferenceOutputs,
    complete_batch,
    preference_outputs,
)
from hf_reward.training.samples import SampleTable
from hf_reward.training.setup import activation_offloading, prepare_dataset, prepare_reward_model
from hf_reward.training.sharding import head_sent_in_float32, split_head_apart
from hf_reward.training.signals import StopsOnSignal


logger = logging.getLogger(__name__)

Datasets: TypeAlias = Dataset | IterableDataset | dict[str, Dataset | IterableDataset]


class RewardTrainer(ExactEvaluation, StopsOnSignal, LaidOutBatches):
    """
    Train a model to give the preferred of two completions the higher reward.

    Each step scores P chosen and P rejected sequences in one forward pass and minimises the Bradley-Terry negative
    log-likelihood, the weighted mean over all pairs of the global batch (all micro-batches, all processes):

        loss = sum_i w_i (softplus(-(chosen_i - rejected_i - margin_i)) + c (chosen_i + rejected_i)^2) / sum_i w_i

    with `margin` and `weight` columns where the data has them (else 0 and 1), and c the coefficient
    `args.center_rewards_coefficient` (default 0). For k ranked completions the term of a group is the mean over its
    k (k - 1) / 2 pairs. Ties, soft preferences, rankings as a whole and scores have losses of their own, chosen by the
    columns of the data and by `args.loss_type`; see `docs/losses.md`. A script written for TRL's trainer of the same
    name runs here by changing the import.

    Args:
        model (`str`, [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            Hub id, folder, or a sequence classifier with `num_labels=1`.
        args ([`RewardConfig`], *optional*):
            Batch sizes count pairs, twice as many sequences.
        data_collator (`DataCollator`, *optional*):
            Defaults to [`PreferenceCollator`].
        train_dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`], *optional*):
            Raw preference rows (see `hf_reward.data.formats`) or tokenised ones.
        eval_dataset (the same, or a `dict` of named sets, *optional*):
            Metrics are exact sums over pairs, independent of batch size and number of processes.
        processing_class ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            Defaults to the tokenizer of the model's checkpoint. It gets a pad token of its own.
        compute_metrics (`Callable[[EvalPrediction], dict]`, *optional*):
            Gets `predictions` of shape (pairs, 2), chosen then rejected, in dataset order.
        callbacks, optimizers, optimizer_cls_and_kwargs, preprocess_logits_for_metrics:
            As in [`~transformers.Trainer`].
        quantization_config (*optional*):
            Used when `model` is a name.
        peft_config ([`~peft.PeftConfig`], *optional*):
            Wraps the model into an adapter; the score head always trains.

    Raises:
        `ConfigurationError`: The model has more than one output, or its score head would not train.
        `DataError`: A row is not a preference pair.

    References:
        Bradley and Terry (1952), Biometrika 39(3/4), for the model; Ouyang et al. (2022), arXiv:2203.02155, equation
        1, for the loss; Stiennon et al. (2020), arXiv:2009.01325, for the start of the score head.
    """

    # What a reward trainer's attributes are, more narrowly than the Trainer says.
    args: RewardConfig
    model: PreTrainedModel | PeftModel
    processing_class: Tokenizer

    _tag_names: ClassVar[list[str]] = ["reward-model", "reward-trainer", "hf_reward"]
    # The loss is divided by the weight of the whole accumulated batch, so the Trainer must not divide it again.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        args: RewardConfig | None = None,
        data_collator: DataCollator | None = None,
        train_dataset: Dataset | IterableDataset | None = None,
        eval_dataset: Datasets | None = None,
        processing_class: Tokenizer | None = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, Any]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Callable[[Tensor, Tensor], Tensor] | None = None,
        quantization_config: Any = None,
        peft_config: PeftConfig | None = None,
    ) -> None:
        if args is None:
            name = model if isinstance(model, str) else model.config._name_or_path
            args = RewardConfig(output_dir=f"{Path(name).name or 'model'}-Reward")
        model_is_the_users = not isinstance(model, str)
        model, processing_class = prepare_reward_model(
            model, args, processing_class, quantization_config=quantization_config, peft_config=peft_config
        )
        self.counters = SeenCounters()
        self.samples = SampleTable(args.eval_sample_pairs, args.seed)
        callbacks = [self.counters, SuspiciousNumbers(), self.samples, *(callbacks or [])]
        if args.num_evals is not None:
            callbacks.append(EvaluationSchedule(args.num_evals))
        # Dispatching, which is for streams alone, would concatenate batches of different lengths.
        accelerator_config: Any = args.accelerator_config  # an `AcceleratorConfig` since `args` was made
        accelerator_config.dispatch_batches = False
        positions = longest_input(base_model(model).config)
        train_dataset = prepare_dataset(train_dataset, processing_class, args, "train", positions)
        eval_dataset = prepare_dataset(eval_dataset, processing_class, args, "eval", positions)
        if data_collator is None:
            multiple: Any = args.pad_to_multiple_of  # a number or None since `args` was made
            data_collator = PreferenceCollator(processing_class.pad_token_id, pad_to_multiple_of=multiple)
            choice = choose_layout(args, model, eval_dataset if train_dataset is None else train_dataset)
        else:
            choice = LayoutChoice(getattr(data_collator, "layout", "padded"), "as the data collator does it")
        super().__init__(
            choice=choice,
            model_is_the_users=model_is_the_users,
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
            optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
        )
        if self.args.n_gpu > 1:
            raise ConfigurationError(
                f"{self.args.n_gpu} GPUs are visible to one process, which would run nn.DataParallel. Start one "
                f"process per GPU (`hf_reward-train RECIPE.yaml --accelerate_config ddp`, or `torchrun "
                f"--nproc_per_node {self.args.n_gpu} ...`), make one visible with CUDA_VISIBLE_DEVICES, or split the "
                "model over them with `device_map` in `model_init_kwargs`."
            )
        if self.is_fsdp_enabled:
            split_head_apart(self.model, self.accelerator.state.fsdp_plugin)
        self.samples.callbacks = self.callback_handler.callbacks
        # The mode that ran, in words, once a run has compared it with the one asked for.
        self.mode: str | None = None
        # Facts that a run adds to what the trainer itself knows; see `hf_reward.hub.observed`.
        self.card_facts: Any = None
        base_model(self.model).add_model_tags(self._tag_names)

    # ---- loss -------------------------------------------------------------------------------------------------------

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, PreferenceOutputs]:
        """
        Score all completions of the batch in one forward pass and return the weighted mean of the groups' losses.

        Args:
            model (`nn.Module`): The (wrapped) reward model.
            inputs (`dict`): A batch of [`PreferenceCollator`].
            return_outputs (`bool`, *optional*, defaults to `False`): Also return the [`PreferenceOutputs`].
            num_items_in_batch (`torch.Tensor` or `int`, *optional*):
                Total weight of the global batch; without it, that of this batch.

        Shape:
            With S sequences of padded length L: `input_ids` (S, L); the loss is a float32 scalar.
        """
        # A batch that was made by hand comes before any data loader.
        self.prove_layout(self.eval_dataset if self.train_dataset is None else self.train_dataset)
        batch = complete_batch(inputs)
        outputs = preference_outputs(model, batch, self.args)
        weight = batch["weight"]
        weighted = (weight * outputs.losses).sum()
        if num_items_in_batch is None:
            loss = weighted / weight.sum().clamp_min(torch.finfo(weight.dtype).tiny)
        else:
            # Gradients are averaged over processes; times their number, the average is the sum that is meant.
            loss = weighted / num_items_in_batch * self.accelerator.num_processes
        if model.training:
            self.watch(batch, outputs.losses)
            self._add(self._training_sums, batch, outputs)
        return (loss, outputs) if return_outputs else loss

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """One micro-step; activations wait on the CPU for their backward pass if `activation_offloading` is on."""
        with self._offloading:
            return super().training_step(*args, **kwargs)

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> Tensor:
        """Weight of the global batch: all micro-batches of this optimizer step, on all processes."""
        for batch in batch_samples:
            batch.setdefault("weight", torch.ones(batch["input_ids"].shape[0] // 2))
        if batch_samples:
            self._ignore_repeated_rows(batch_samples[-1], self._train_batch_size)
        weights = [batch["weight"].sum().to(device) for batch in batch_samples]
        total = torch.stack(weights).sum() if weights else torch.zeros((), device=device)
        if self.accelerator.num_processes > 1:
            total = self.accelerator.reduce(total, reduction="sum")
        return total.clamp_min(torch.finfo(total.dtype).tiny)

    @cached_property
    def _offloading(self) -> contextlib.AbstractContextManager[Any]:
        return activation_offloading(self.model, self.args)

    # ---- metrics ----------------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the metrics of the pairs trained on since the last log to the Trainer's own entry."""
        if "loss" in logs or "train_loss" in logs:
            metrics = self._read(self._training_sums)
            self._training_sums.reset()
            self.counters.add(metrics)
            metrics = metrics if "loss" in logs else {}
            # The Trainer's own loss is the one that is minimised; pairs and tokens are logged as running totals.
            logs |= {name: value for name, value in metrics.items() if name not in ("loss", "pairs", "tokens")}
            logs |= {"num_pairs": self.counters.num_pairs, "num_tokens": self.counters.num_tokens}
        super().log(logs, start_time)

    # ---- evaluation -------------------------------------------------------------------------------------------------

    def evaluate(
        self,
        eval_dataset: Datasets | str | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """As in [`~transformers.Trainer.evaluate`]; a raw dataset is tokenised first."""
        prepared: Any = eval_dataset  # the name of one of several sets stays a name
        if not isinstance(eval_dataset, str):
            prepared = self._prepared(eval_dataset, "eval")
        with self.reward_forward(), self.padded_until_proved():
            return super().evaluate(prepared, ignore_keys, metric_key_prefix)

    def predict(self, test_dataset: Dataset, *args: Any, **kwargs: Any) -> Any:
        """As in [`~transformers.Trainer.predict`]; `predictions` are the rewards, (pairs, 2), in dataset order."""
        test_dataset = self._prepared(test_dataset, "test")
        with self.reward_forward(), self.padded_until_proved():
            return super().predict(test_dataset, *args, **kwargs)

    def _prepared(self, dataset: Any, name: str) -> Any:
        positions = longest_input(base_model(self.model).config)
        return prepare_dataset(dataset, self.processing_class, self.args, name, positions)

    # ---- training and saving ----------------------------------------------------------------------------------------

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As in [`~transformers.Trainer.train`]; a model that the user passed has its own forward back afterwards."""
        with self.reward_forward():
            return super().train(*args, **kwargs)

    def _set_signature_columns_if_needed(self) -> None:
        # The Trainer fills it in later, and says `None`.
        self._signature_columns = [*LEARNED_FROM, *GOING_ALONG]  # type: ignore[assignment]

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        """Wrap the model; DeepSpeed leaves the score head in float32."""
        with head_sent_in_float32(self.model) if self.is_deepspeed_enabled else contextlib.nullcontext():
            return super()._prepare_for_training(*args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As in [`~transformers.Trainer.save_model`]; FSDP2 with `SHARDED_STATE_DICT` saves whole weights too."""
        plugin = getattr(self.accelerator.state, "fsdp_plugin", None)
        if plugin is None or "SHARDED_STATE_DICT" not in str(plugin.state_dict_type):
            super().save_model(output_dir, _internal_call)
            return
        self._save(output_dir, state_dict=self.accelerator.get_state_dict(self.model))
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Weights, config, tokenizer and chat template: a plain checkpoint, without pickled arguments."""
        if not self.args.should_save and not self.is_distributed_loading_by_transformers:
            return
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        with self._model_folder(output_dir or str(self.args.output_dir)) as folder:
            save_model(model, folder, state_dict=state_dict, is_main_process=self.args.should_save)
            if self.args.should_save:
                check_saved_weights(model, folder)
            if self.args.should_save and self.processing_class is not None:
                self.processing_class.save_pretrained(folder)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write the card, `README.md`, from what was observed of the run so far."""
        if self.is_world_process_zero():
            from hf_reward.hub.card import write_card
            from hf_reward.hub.observed import observe_trainer

            write_card(self.card_facts or observe_trainer(self), self.args.output_dir)
