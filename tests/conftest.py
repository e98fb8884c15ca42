"""Fixtures: tiny models, tokenizers and pairs, all made here; nothing is downloaded."""

import os


os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from hf_reward.quickstart.model import byte_tokenizer


PAIRS = [
    ("What is 2 + 2?", "It is 4.", "It is 5."),
    ("Name a colour.", "Blue is a colour that many people like.", "Dog."),
    ("Say hello.", "Hello!", "Goodbye, and do not come back soon."),
    ("Where is Paris?", "In France.", "On the moon."),
    ("Is water wet?", "Most people say that it is.", "No, never."),
    ("Count to three.", "One, two, three.", "Three."),
    ("What do cows drink?", "Water.", "Milk, of course, all day."),
]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer()


@pytest.fixture
def tokenizer(shared_tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    return copy.deepcopy(shared_tokenizer)


def llama_config(**changes: Any) -> LlamaConfig:
    values = {
        "vocab_size": 262,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return LlamaConfig(**(values | changes))


@pytest.fixture
def reward_model() -> PreTrainedModel:
    """A tiny Llama with one output whose rewards differ visibly between texts."""
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(llama_config(num_labels=1))


@pytest.fixture
def causal_folder(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A saved tiny causal language model with its tokenizer, as most runs start from."""
    torch.manual_seed(0)
    folder = tmp_path / "causal"
    LlamaForCausalLM(llama_config()).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def chat_pairs() -> Dataset:
    """Seven pairs with an explicit prompt, as chat messages."""
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": prompt}],
                "chosen": [{"role": "assistant", "content": chosen}],
                "rejected": [{"role": "assistant", "content": rejected}],
            }
            for prompt, chosen, rejected in PAIRS
        ]
    )
