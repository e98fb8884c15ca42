"""What a run would do: everything resolved and tokenised, nothing trained and nothing written."""

from dataclasses import dataclass

import torch
from accelerate import init_empty_weights
from datasets import Dataset, IterableDataset
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase

from hf_reward.config import ModelArguments, RewardConfig
from hf_reward.modeling.adapters import add_adapter, lora_config
from hf_reward.modeling.loading import load_config
from hf_reward.training.schedule import optimizer_steps, pairs_per_step


@dataclass
class DryRun:
    """
    A run that was not made.

    Attributes:
        chosen_tokens, rejected_tokens (`list[str]`): Tokens of the first pair; each reward is read at the last one.
        prompt_length (`int`): Tokens of its prompt.
        optimizer_steps (`int`): Steps of the whole run.
        pairs_per_step (`int`): Pairs of one step, over all processes and micro-batches.
        parameters, trainable_parameters (`int`): Of the model, the score head included.
    """

    chosen_tokens: list[str]
    rejected_tokens: list[str]
    prompt_length: int
    optimizer_steps: int
    pairs_per_step: int
    parameters: int
    trainable_parameters: int


def describe(
    args: RewardConfig,
    model_args: ModelArguments,
    tokenizer: PreTrainedTokenizerBase,
    train: Dataset | IterableDataset,
) -> DryRun:
    """Work out what a run would do; the model is built without its weights."""
    first = next(iter(train))
    total, trainable = count_parameters(args, model_args)
    return DryRun(
        chosen_tokens=_tokens(tokenizer, first["chosen_input_ids"]),
        rejected_tokens=_tokens(tokenizer, first["rejected_input_ids"]),
        prompt_length=first["prompt_length"],
        # The length of a stream is not known, and `max_steps` decides alone.
        optimizer_steps=optimizer_steps(args, len(train) if isinstance(train, Dataset) else 1),
        pairs_per_step=pairs_per_step(args),
        parameters=total,
        trainable_parameters=trainable,
    )


def count_parameters(args: RewardConfig, model_args: ModelArguments) -> tuple[int, int]:
    """All parameters and those that train, counted on a model without memory."""
    config = load_config(model_args.model_name_or_path, model_args.model_revision, args.trust_remote_code)
    config.num_labels = 1
    with init_empty_weights(include_buffers=True):
        model = AutoModelForSequenceClassification.from_config(config, trust_remote_code=args.trust_remote_code)
        if model_args.use_peft:
            model = add_adapter(model, lora_config(model_args))
    parameters = [parameter for parameter in model.parameters() if isinstance(parameter, torch.nn.Parameter)]
    return (
        sum(parameter.numel() for parameter in parameters),
        sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
    )


def _tokens(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[str]:
    return [str(tokenizer.decode([token])) for token in ids]
