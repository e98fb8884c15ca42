"""What stands ready before a trainer starts: the model with its tokenizer and adapter, and tokenised datasets."""

import contextlib
import logging
from typing import Any, TypeVar

import torch
from datasets import Dataset, IterableDataset
from peft import PeftConfig, PeftModel
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from hf_reward.config import RewardConfig
from hf_reward.data.accounts import SplitRows
from hf_reward.data.lengths import LengthLimits
from hf_reward.data.reading import detect_reader
from hf_reward.data.report import check_dropped
from hf_reward.data.tokenization import RowRules, is_prepared, keep_usable, tokenize_dataset
from hf_reward.errors import ConfigurationError, DataError
from hf_reward.modeling.adapters import add_adapter, base_model, check_head_trains
from hf_reward.modeling.layout import only_padded
from hf_reward.modeling.loading import (
    check_activation_checkpointing,
    check_weights_stay,
    disable_dropout,
    load_config,
    load_reward_model,
    prepare_model,
)
from hf_reward.modeling.score_head import bind_reward_forward, keep_head_in_float32
from hf_reward.modeling.tokenizer import load_tokenizer, prepare_tokenizer
from hf_reward.training.objective import check_loss_columns


logger = logging.getLogger(__name__)

D = TypeVar("D", Dataset, IterableDataset)


def prepare_reward_model(
    model: str | PreTrainedModel | PeftModel,
    args: RewardConfig,
    tokenizer: Tokenizer | None = None,
    *,
    quantization_config: Any = None,
    peft_config: PeftConfig | None = None,
) -> tuple[PreTrainedModel | PeftModel, Tokenizer]:
    """
    Load or take a model, make its tokenizer fit, bind the reward forward, and wrap it into an adapter if asked to.

    Raises:
        `ConfigurationError`: Something of this cannot be done; see the functions that are called.
    """
    given: Any = args.model_init_kwargs or {}  # a dict: JSON text was read when `args` was made
    init_kwargs: dict[str, Any] = dict(given) if isinstance(model, str) else {}
    trust = bool(init_kwargs.pop("trust_remote_code", args.trust_remote_code))
    name = model if isinstance(model, str) else model.config._name_or_path
    revision = init_kwargs.pop("revision", None)
    if tokenizer is None:
        tokenizer = load_tokenizer(name, revision, trust)
    config = load_config(name, revision, trust) if isinstance(model, str) else model.config
    fit_tokenizer(tokenizer, args, config, trust)
    if isinstance(model, str):
        model = load_reward_model(
            name,
            revision=revision,
            seed=args.seed,
            score_head_init=args.score_head_init,
            trust_remote_code=trust,
            quantization_config=quantization_config,
            **init_kwargs,
        )
    elif args.model_init_kwargs or quantization_config is not None:
        logger.warning("`model_init_kwargs` and `quantization_config` are ignored: the model is loaded already")
    return finish_model(model, args, tokenizer, peft_config), tokenizer


def fit_tokenizer(
    tokenizer: Tokenizer, args: RewardConfig, config: PreTrainedConfig | None, trust_remote_code: bool
) -> None:
    """Make a tokenizer fit for reward modelling: as the settings say, and for a model of this config, if known."""
    prepare_tokenizer(
        tokenizer,
        eos_token=args.eos_token,
        pad_token=args.pad_token,
        chat_template_path=args.chat_template_path,
        add_bos=args.add_bos,
        trust_remote_code=trust_remote_code,
        embedding_rows=None if config is None else getattr(config.get_text_config(), "vocab_size", None),
    )


def finish_model(
    model: PreTrainedModel | PeftModel, args: RewardConfig, tokenizer: Tokenizer, peft_config: PeftConfig | None = None
) -> PreTrainedModel | PeftModel:
    """Agree with the tokenizer, bind the reward forward, add the adapter, and see that the head trains."""
    base = base_model(model)
    warn_of_emulated_bfloat16(args)
    padded = args.batch_layout == "padded" or only_padded(model, args) is not None
    checkpointing = args.checkpoint_activations(by_default=padded)
    check_activation_checkpointing(base, checkpointing, args.gradient_checkpointing_kwargs)
    check_weights_stay(base, args.world_size)
    prepare_model(base, tokenizer)
    keep_head_in_float32(base)
    bind_reward_forward(base)
    if peft_config is not None:
        model = add_adapter(model, peft_config)
    check_head_trains(model)
    if isinstance(model, PeftModel) and checkpointing:
        # Frozen embeddings would cut the graph before the first checkpoint.
        model.enable_input_require_grads()
    if args.disable_dropout:
        disable_dropout(model)
    return model


def warn_of_emulated_bfloat16(args: RewardConfig) -> None:
    """Say that `bf16` makes a run slower on a processor that has no instructions for it."""
    mkldnn = torch.backends.mkldnn.is_available()
    if args.bf16 and args.device.type == "cpu" and mkldnn and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        logger.warning(
            "bf16: this processor has no bfloat16 instructions, so its matrix products are many times slower than in "
            "float32; leave `bf16` out here"
        )


def activation_offloading(
    model: PreTrainedModel | PeftModel, args: RewardConfig
) -> contextlib.AbstractContextManager[Any]:
    """What a micro-step runs in, so that its activations wait in CPU memory if `args.activation_offloading` is on."""
    if not args.activation_offloading:
        return contextlib.nullcontext()
    if args.device.type == "cpu":
        logger.info("activation_offloading: off, because this run is on a CPU, whose memory holds all activations")
        return contextlib.nullcontext()
    from trl.models.activation_offloading import get_act_offloading_ctx_manager

    # The head that TRL would leave out, and warn about where it finds none, has one output here.
    offloading: contextlib.AbstractContextManager[Any] = get_act_offloading_ctx_manager(model, warn_if_no_head=False)
    return offloading


def prepare_dataset(
    dataset: Any, tokenizer: Tokenizer, args: RewardConfig, name: str, positions: int | None = None
) -> Any:
    """
    Tokenise a dataset, or every set of a `dict`, unless that is done; say how many rows were dropped and why.

    `positions` is the number of tokens that the model has positions for, if it says so.

    Raises:
        `DataError`: A row is not a preference pair or longer than `positions`, or no row is left, or not enough of
            them for one batch.
        `ConfigurationError`: It is not a dataset, or has columns that no loss here uses.
    """
    if dataset is None:
        return None
    if isinstance(dataset, dict):
        return {key: prepare_dataset(part, tokenizer, args, key, positions) for key, part in dataset.items()}
    if not isinstance(dataset, Dataset | IterableDataset):
        raise ConfigurationError(
            f"The {name} dataset is a {type(dataset).__name__}; expected a `datasets.Dataset` or `IterableDataset`"
            + (" (or a dict of them)." if name == "eval" else ".")
        )
    if not is_prepared(dataset.column_names):
        rules = row_rules(args)
        tokenized = tokenize_dataset(
            dataset, detect_reader(dataset, name), tokenizer, name, rules, args.dataset_num_proc
        )
        dataset = keep_usable(tokenized) if isinstance(tokenized, IterableDataset) else _kept(tokenized, name, args)
        dataset = within_positions(dataset, positions, name)
    check_columns_of(dataset, args, name)
    check_batches(dataset, args, name)
    return dataset


def _kept(tokenized: Dataset, name: str, args: RewardConfig) -> Dataset:
    rows = SplitRows.join([tokenized], [name])
    check_dropped(rows, name, args.max_length)
    return rows.dataset()


def within_positions(dataset: D, positions: int | None, name: str) -> D:
    """
    See that no tokenised row is longer than the model has positions for, in a stream while it is read.

    Raises:
        `DataError`: There is one; the message names the limit to set.
    """
    if positions is None:
        return dataset

    def fits(length: int) -> bool:
        if length > positions:
            raise DataError(
                f"{name}: the longest pair has {length} tokens, but the model has positions for {positions}. Set "
                f"`max_length: {positions}` or less; longer pairs are then dropped and counted, or shortened by "
                "`overlong: truncate_prompt`."
            )
        return True

    if isinstance(dataset, IterableDataset):
        return dataset.filter(fits, input_columns="length")
    # As NumPy numbers: a list of Python numbers would take five times their memory.
    fits(int(dataset.with_format("numpy")["length"][:].max()))
    return dataset


def row_rules(args: RewardConfig, *, drop_identical: bool = True, drop_empty: bool = True) -> RowRules:
    """What the settings ask of a single row."""
    limits = LengthLimits(args.max_length, args.max_prompt_length, args.overlong)
    return RowRules(limits, args.escape_special_tokens, drop_identical, drop_empty)


def check_columns_of(dataset: Dataset | IterableDataset, args: RewardConfig, name: str) -> None:
    """See that the loss has the columns it needs, and uses those that are there; a stream may not know its own."""
    if dataset.column_names:
        check_loss_columns(dataset.column_names, args, name)


def check_batches(dataset: Dataset | IterableDataset, args: RewardConfig, name: str) -> None:
    """
    See that there is at least one batch where incomplete ones are left out.

    Raises:
        `DataError`: `dataloader_drop_last` leaves nothing.
    """
    if not args.dataloader_drop_last or isinstance(dataset, IterableDataset):
        return
    batch = args.train_batch_size if name == "train" else args.eval_batch_size
    if len(dataset) < batch * args.world_size:
        raise DataError(
            f"{name}: 0 batches: {len(dataset)} pairs are fewer than the {batch * args.world_size} of one batch on "
            f"{args.world_size} process(es), and `dataloader_drop_last` leaves incomplete batches out. Lower the "
            "batch size, or leave `dataloader_drop_last` off."
        )
