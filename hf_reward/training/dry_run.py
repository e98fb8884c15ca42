"""What a run would do: everything resolved and tokenised, nothing trained and nothing written."""

from dataclasses import dataclass
from typing import Any

import torch
from accelerate import init_empty_weights
from datasets import Dataset, IterableDataset
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase

from hf_reward.config import ModelArguments, RewardConfig
from hf_reward.data.batching import TokenBudgetSampler, row_tokens
from hf_reward.data.layouts import BatchLayout
from hf_reward.modeling.adapters import add_adapter, lora_config
from hf_reward.modeling.layout import choose_layout
from hf_reward.modeling.loading import load_config, longest_input
from hf_reward.modeling.score_head import reads_last_token
from hf_reward.training.memory import MemoryNeed, estimate_memory
from hf_reward.training.schedule import optimizer_steps, pairs_per_step


@dataclass
class Preview:
    """One tokenised side of a pair as text: the prompt, the completion without its last token, and that token."""

    tokens: int
    prompt_tokens: int
    prompt: str
    completion: str
    last_token: str


@dataclass
class DryRun:
    """
    A run that was not made.

    Attributes:
        chosen, rejected (`Preview`): The two sides of the first pair.
        reads_last_token (`bool`): Whether the reward is read at the last token, as in decoders.
        optimizer_steps (`int`): Steps of the whole run.
        pairs_per_step (`int`, *optional*): Pairs of one step, over all processes and micro-batches; unknown where a
            token budget makes the batches.
        parameters, trainable_parameters (`int`): Of the model, the score head included.
        layout (`str`): How batches will be laid out, if that is seen to give the right rewards.
        memory (`MemoryNeed`): What each device needs.
    """

    chosen: Preview
    rejected: Preview
    reads_last_token: bool
    optimizer_steps: int
    pairs_per_step: int | None
    parameters: int
    trainable_parameters: int
    layout: BatchLayout
    memory: MemoryNeed


def describe(
    args: RewardConfig,
    model_args: ModelArguments,
    tokenizer: PreTrainedTokenizerBase,
    train: Dataset | IterableDataset,
) -> DryRun:
    """Work out what a run would do; the model is built without its weights."""
    first = next(iter(train))
    total, trainable, at_last_token, layout = look_at_model(args, model_args, train)
    args.checkpoint_activations(by_default=layout == "padded")
    multiple: Any = args.pad_to_multiple_of or 1  # a number since `args` was made
    tokens = row_tokens(train, layout, multiple) if isinstance(train, Dataset) else []
    return DryRun(
        chosen=_preview(tokenizer, first["chosen_input_ids"], first["prompt_length"]),
        rejected=_preview(tokenizer, first["rejected_input_ids"], first["prompt_length"]),
        reads_last_token=at_last_token,
        # The length of a stream is not known, and `max_steps` decides alone.
        optimizer_steps=optimizer_steps(args, len(tokens) or 1, _micro_steps(args, layout, tokens)),
        pairs_per_step=None if args.max_tokens_per_batch else pairs_per_step(args),
        parameters=total,
        trainable_parameters=trainable,
        layout=layout,
        memory=estimate_memory(args, model_args, *_largest_batch(args, model_args, train, layout, tokens)),
    )


def _micro_steps(args: RewardConfig, layout: BatchLayout, tokens: list[int]) -> int | None:
    """Batches of one process in an epoch, where a token budget makes them."""
    budget = args.max_tokens_per_batch
    if budget is None or not tokens:
        return None
    return len(TokenBudgetSampler(tokens, budget, layout == "padded", seed=0, processes=args.world_size))


def _largest_batch(
    args: RewardConfig,
    model_args: ModelArguments,
    train: Dataset | IterableDataset,
    layout: BatchLayout,
    tokens: list[int],
) -> tuple[int, int | None]:
    """Tokens of the longest row, and how many such rows the largest batch holds; without padding, a pair is a row."""
    longest = _longest(args, model_args, train)
    if not tokens:
        return longest, None
    most = max(tokens)
    if args.max_tokens_per_batch is not None:
        return most, max(1, args.max_tokens_per_batch // most)
    return (longest, None) if layout == "padded" else (most, int(args.per_device_train_batch_size))


def _longest(args: RewardConfig, model_args: ModelArguments, train: Dataset | IterableDataset) -> int:
    """The longest sequence, in tokens; of a stream, the longest that there may be."""
    if isinstance(train, Dataset):
        return int(max(train["length"][:]))
    config = load_config(model_args.model_name_or_path, model_args.model_revision, args.trust_remote_code)
    return min(length for length in (args.max_length, longest_input(config), 2**20) if length)


def look_at_model(
    args: RewardConfig, model_args: ModelArguments, train: Dataset | IterableDataset
) -> tuple[int, int, bool, BatchLayout]:
    """
    All parameters, those that train, whether the reward is read at the last token, and the layout that will be tried.

    No memory is taken.
    """
    config = load_config(model_args.model_name_or_path, model_args.model_revision, args.trust_remote_code)
    config.num_labels = 1
    with init_empty_weights(include_buffers=True):
        model = AutoModelForSequenceClassification.from_config(config, trust_remote_code=args.trust_remote_code)
        at_last_token = reads_last_token(model)
        peft_config = lora_config(model_args)
        if peft_config is not None:
            model = add_adapter(model, peft_config)
    parameters = [parameter for parameter in model.parameters() if isinstance(parameter, torch.nn.Parameter)]
    return (
        sum(parameter.numel() for parameter in parameters),
        sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        at_last_token,
        choose_layout(args, model, train).layout,
    )


def _preview(tokenizer: PreTrainedTokenizerBase, ids: list[int], prompt_length: int) -> Preview:
    start = min(prompt_length, len(ids) - 1)
    return Preview(
        tokens=len(ids),
        prompt_tokens=prompt_length,
        prompt=str(tokenizer.decode(ids[:start])),
        completion=str(tokenizer.decode(ids[start:-1])),
        last_token=str(tokenizer.decode(ids[-1:])),
    )
