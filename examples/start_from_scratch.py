"""
Make a folder to train from scratch: a BPE tokenizer learnt from a preference file, and the config of a small Llama.

    python examples/start_from_scratch.py pairs.jsonl base
    hf_reward-train --model_name_or_path base --from_scratch --dataset_name pairs.jsonl --output_dir reward_model
"""

import argparse
from collections.abc import Iterator

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from hf_reward import DataArguments
from hf_reward.data.chat_templates import find_chat_template
from hf_reward.data.loading import load_sources


def texts(file: str) -> Iterator[str]:
    """Every text of the file: prompts and completions, plain or as messages."""
    for row in load_sources(DataArguments(dataset_name=file), "train")[0].dataset:
        for column in ("prompt", "chosen", "rejected"):
            value = row.get(column) or ""
            yield from [value] if isinstance(value, str) else (message["content"] for message in value)


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="preference data, as for hf_reward-train")
    parser.add_argument("folder", help="where tokenizer and config are written")
    parser.add_argument("--vocab_size", type=int, default=8192)
    parser.add_argument("--hidden_size", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    arguments = parser.parse_args()

    special = ["<pad>", "<bos>", "<eos>"]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=arguments.vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts(arguments.file), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **dict(zip(("pad_token", "bos_token", "eos_token"), special, strict=True)),
        chat_template=find_chat_template("plain"),
        model_max_length=2048,
    )
    tokenizer.save_pretrained(arguments.folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=arguments.hidden_size,
        intermediate_size=4 * arguments.hidden_size,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.hidden_size // 64,
        max_position_embeddings=2048,
        initializer_range=arguments.hidden_size**-0.5,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        num_labels=1,
    )
    config.save_pretrained(arguments.folder)
    print(f"{arguments.folder}: {len(tokenizer)} tokens, {arguments.layers} layers of width {arguments.hidden_size}")


if __name__ == "__main__":
    main()
