"""
Which batch layout every decoder of transformers gets, as a Markdown table: `docs/batch_layouts.md` holds its output.

    python benchmarks/layouts_by_architecture.py

Each architecture with a sequence classifier is built tiny, with random weights and, where it has a sliding window, one
that the rows exceed; the layouts are then compared as before a training run. What cannot be built from such a generic
config is listed as untested, and gets padded rows.
"""

import contextlib
import io
import logging
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from hf_reward.data.collator import PreferenceCollator
from hf_reward.errors import ConfigurationError
from hf_reward.modeling.layout import LayoutChoice, only_padded, prove_layout
from hf_reward.modeling.loading import disable_dropout
from hf_reward.modeling.score_head import bind_reward_forward, reads_last_token


TINY = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 48,
    "ffn_dim": 48,
    "word_embed_proj_dim": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "num_labels": 1,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
}
WINDOW = 6
LARGEST = 5_000_000
LENGTHS = ((9, 5, 3), (14, 2, 7), (4, 11, 11), (0, 5, 3), (6, 4, 0))


def rows() -> list[dict[str, Any]]:
    """Pairs with prompts longer and shorter than the window, without a prompt, and with an empty completion."""
    generator = torch.Generator().manual_seed(0)

    def ids(count: int, first: int) -> list[int]:
        rest = torch.randint(10, 99, (max(count - 1, 0),), generator=generator).tolist()
        return [first, *rest] if count else []

    return [
        {"completion_input_ids": [prompt + ids(chosen, 3), prompt + ids(rejected, 4)]}
        for length, chosen, rejected in LENGTHS
        for prompt in [ids(length, 5)]
    ]


def build(kind: str) -> PreTrainedModel:
    """The classifier of one architecture, tiny."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **TINY)
    if getattr(config, "sliding_window", None) is not None:
        config.sliding_window = WINDOW
    with torch.device("meta"):
        size = sum(p.numel() for p in AutoModelForSequenceClassification.from_config(config).parameters())
    if size > LARGEST:
        raise ValueError(f"{size} parameters, because parts of its config have sizes of their own")
    model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)
    disable_dropout(model)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and "norm" not in name:
            nn.init.normal_(parameter, std=0.2)
    return model


def layout_of(kind: str) -> tuple[str, str] | None:
    """Layout and reason of one architecture; `None` for an encoder."""
    try:
        model = build(kind)
        if not reads_last_token(model):
            return None
        bind_reward_forward(model)
        against = only_padded(model)
        if against is not None:
            return "padded", against
        choice = prove_layout(model, LayoutChoice("shared_prompt", "exact"), rows(), PreferenceCollator(0), None)
    except ConfigurationError:
        return None
    # Whatever an architecture raises that a generic config does not fit.
    except Exception as error:  # noqa: BLE001
        return "untested", f"cannot be built or run tiny ({type(error).__name__})"
    return choice.layout, "exact" if choice.layout != "padded" else choice.reason


def _in_general(reason: str) -> str:
    """A reason without the names and numbers of one architecture."""
    if "layers of" in reason and "attention interface" not in reason:
        return f"layers of {reason.rpartition(' ')[2]}"
    if "attention interface" in reason:
        return "its layers do not ask for attention as it is told to them here"
    return reason


def table() -> str:
    """One line for each layout and reason, with its architectures."""
    found: dict[tuple[str, str], list[str]] = {}
    for kind in sorted(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES):
        result = layout_of(kind)
        if result is not None:
            layout, reason = result
            found.setdefault((layout, _in_general(reason)), []).append(kind)
    order = ("shared_prompt", "packed", "padded", "untested")
    lines = ["| layout | architectures | why |", "|---|---|---|"]
    for layout, reason in sorted(found, key=lambda key: (order.index(key[0]), key[1])):
        lines.append(f"| {layout} | {', '.join(found[layout, reason])} | {reason} |")
    return "\n".join(lines)


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    logging.getLogger("hf_reward").setLevel(logging.ERROR)
    with contextlib.redirect_stderr(io.StringIO()):
        text = table()
    print(text)
