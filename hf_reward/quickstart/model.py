"""A tokenizer of bytes and a tiny decoder's config, made in place: nothing is downloaded, no file is shipped."""

from os import PathLike
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from transformers import LlamaConfig, PreTrainedTokenizerFast

MAX_LENGTH = 1024
SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|' + message['role'] + '|>' + message['content'] }}"
    "{%- if message['role'] == 'assistant' %}{{- eos_token }}{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"
)

# Settings of a run that learns the generated task from any of the seeds 1 to 5.
RECIPE: dict[str, Any] = {
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 125,
    "learning_rate": 5e-4,
    "lr_scheduler_type": "linear",
    "warmup_steps": 20,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "max_steps": 200,
    "logging_steps": 10,
    "eval_strategy": "steps",
    "eval_steps": 25,
    "bf16": False,
    "fp16": False,
}


def byte_tokenizer() -> "PreTrainedTokenizerFast":
    """
    A tokenizer with one token for each of the 256 bytes and six special tokens; any text comes back unchanged.

    Its chat template renders system, user and assistant turns and ends an assistant's turn with `<eos>`.
    No token is added to plain text.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate([*SPECIAL_TOKENS, *alphabet])}
    # A BPE model without merges: each byte stays a token.
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        additional_special_tokens=["<|system|>", "<|user|>", "<|assistant|>"],
        chat_template=CHAT_TEMPLATE,
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )


def tiny_config(vocab_size: int) -> "LlamaConfig":
    """
    The config of a decoder with two layers and a one-output score head.

    Args:
        vocab_size (`int`): Number of tokens, `len(tokenizer)`.
    """
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        # 1/sqrt(hidden_size): with Llama's 0.02 a model this narrow takes twice the steps, and some seeds stall.
        initializer_range=0.125,
        max_position_embeddings=MAX_LENGTH,
        pad_token_id=SPECIAL_TOKENS.index("<pad>"),
        bos_token_id=SPECIAL_TOKENS.index("<bos>"),
        eos_token_id=SPECIAL_TOKENS.index("<eos>"),
        id2label={0: "LABEL_0"},
        architectures=["LlamaForSequenceClassification"],
    )


def write_model(folder: str | PathLike[str]) -> None:
    """
    Write the tiny decoder's config and the byte tokenizer into a folder, without weights.

    A run with `from_scratch: true` builds the model from it.

    Args:
        folder (`str` or `PathLike`): Made if it is not there.
    """
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(folder)
    tiny_config(len(tokenizer)).save_pretrained(folder)
