"""From a checkpoint (or only its config) to a backbone with a one-output score head whose saved form is plain."""

import logging
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel, set_seed
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.utils import logging as transformers_logging

from hf_reward import __version__
from hf_reward.errors import ConfigurationError
from hf_reward.modeling.saved import full_shape
from hf_reward.modeling.score_head import head_module, init_score_head, reads_last_token


logger = logging.getLogger(__name__)

# Models that number positions from the pad id + 1 on.
_POSITIONS_FROM_PAD = ("roberta", "xlm-roberta", "camembert", "xlm-roberta-xl")


def load_config(name_or_path: str, revision: str | None = None, trust_remote_code: bool = False) -> PreTrainedConfig:
    """
    Read the config of a checkpoint and refuse what cannot become a reward model; nothing large is loaded.

    Raises:
        `ConfigurationError`: There is no such folder or Hub id, or the checkpoint is a classifier of several labels.
    """
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            name_or_path, revision=revision, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError) as error:
        if "trust_remote_code" in str(error):
            raise ConfigurationError(
                f"{name_or_path!r} ships code of its own, which is not run unless `trust_remote_code: true` says so. "
                "Read that code first."
            ) from error
        kind = "a local folder without a readable config.json" if Path(name_or_path).exists() else "not a local folder"
        raise ConfigurationError(
            f"No model could be loaded from {name_or_path!r}: it is {kind}, and the Hub gave none of that name "
            f"(offline, or no such id). {str(error).splitlines()[0]}"
        ) from error
    heads = [name for name in config.architectures or [] if name.endswith("Classification")]
    if heads and config.num_labels != 1:
        raise ConfigurationError(
            f"{name_or_path!r} is a {heads[0]} with {config.num_labels} labels; a reward model has one output. Start "
            "from the base or chat model, or from a reward model."
        )
    return config


def load_reward_model(
    name_or_path: str,
    *,
    revision: str | None = None,
    from_scratch: bool = False,
    seed: int = 42,
    score_head_init: str = "normal",
    trust_remote_code: bool = False,
    allow_fresh_head: bool = True,
    **init_kwargs: Any,
) -> PreTrainedModel:
    """
    Load a checkpoint as a sequence classifier with one output.

    A score head that the checkpoint holds is kept. One that it does not hold (a causal language model) is drawn by
    [`init_score_head`], for decoders and unless `score_head_init` is `"library"`.

    Args:
        name_or_path (`str`): Hub id or folder.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.
        from_scratch (`bool`, *optional*, defaults to `False`): Build random weights from the config alone.
        seed (`int`, *optional*, defaults to 42): Seed of all weights that are drawn.
        score_head_init (`"normal"` or `"library"`, *optional*, defaults to `"normal"`): How a fresh head starts.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Allow code that the checkpoint ships.
        allow_fresh_head (`bool`, *optional*, defaults to `True`): Accept a checkpoint without a score head.
        init_kwargs: Passed on to `from_pretrained`, such as `dtype` (defaults to `float32`) or `attn_implementation`.

    Raises:
        `ConfigurationError`: See [`load_config`]; also when weights are missing or have other shapes.
    """
    config = load_config(name_or_path, revision, trust_remote_code)
    if (config.num_labels or 0) != 1:
        config.num_labels = 1
    config.problem_type = "regression"
    init_kwargs = {name: value for name, value in init_kwargs.items() if value is not None}
    init_kwargs.setdefault("dtype", torch.float32)
    set_seed(seed)
    try:
        if from_scratch:
            init_kwargs.pop("quantization_config", None)
            model: PreTrainedModel = AutoModelForSequenceClassification.from_config(
                config, trust_remote_code=trust_remote_code, **init_kwargs
            )
            fresh = True
        else:
            model, fresh = _from_pretrained(name_or_path, config, revision, trust_remote_code, init_kwargs)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{name_or_path!r} cannot be loaded as a reward model: {error}") from error
    if fresh and not allow_fresh_head:
        raise ConfigurationError(
            f"{name_or_path!r} is no reward model: it holds no score head, its rewards would be random. Train it."
        )
    if fresh and reads_last_token(model) and score_head_init == "normal":
        head: Any = head_module(model)
        init_score_head(head, seed)
        logger.info("score head: fresh, drawn from N(0, 1/(hidden_size+1))")
    return model


def _from_pretrained(
    name_or_path: str,
    config: PreTrainedConfig,
    revision: str | None,
    trust_remote_code: bool,
    init_kwargs: dict[str, Any],
) -> tuple[PreTrainedModel, bool]:
    """The model, and whether its head is fresh. The library's table of missing keys becomes one line."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        model, info = AutoModelForSequenceClassification.from_pretrained(
            name_or_path,
            config=config,
            revision=revision,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
            **init_kwargs,
        )
    finally:
        transformers_logging.set_verbosity(verbosity)
    head = head_module(model)
    names = tuple(f"{name}." for name, module in model.named_modules() if module is head)
    missing = set(info["missing_keys"])
    # An encoder's pooler belongs to its head: language models are saved without it.
    fresh = {name for name in missing if name.startswith(names) or "pooler." in name}
    if missing - fresh:
        some = ", ".join(sorted(missing - fresh)[:3])
        logger.warning(
            "%d weights are not in the checkpoint %s and start at random: %s%s",
            len(missing - fresh),
            name_or_path,
            some,
            " ..." if len(missing - fresh) > 3 else "",
        )
    return model, bool(fresh)


def prepare_model(model: PreTrainedModel, tokenizer: Tokenizer) -> None:
    """
    Make model and tokenizer agree, and the saved config say what it is: one output, raw reward, its own pad token.

    The embedding grows when the tokenizer has more tokens than it has rows. `problem_type` makes pipelines and servers
    return the raw reward, `sentence_transformers` makes CrossEncoder do so.

    Raises:
        `ConfigurationError`: The model has more than one output, or numbers its positions by another pad token.
    """
    if model.config.num_labels != 1:
        raise ConfigurationError(
            f"The model has {model.config.num_labels} outputs (`num_labels`); a reward model has one. Load it with "
            "`num_labels=1`, or pass its name."
        )
    _check_pad_of_positions(model, tokenizer)
    rows = embedding_rows(model)
    if len(tokenizer) > rows:
        logger.info("embedding: grown from %d to %d rows for the tokens that were added", rows, len(tokenizer))
        model.resize_token_embeddings(len(tokenizer))
        model.__dict__["embedding_has_grown"] = True  # an adapter must save it too
    text_config = model.config.get_text_config()
    for config in {id(config): config for config in (model.config, text_config)}.values():
        config.pad_token_id = tokenizer.pad_token_id
        if tokenizer.eos_token_id is not None:
            config.eos_token_id = tokenizer.eos_token_id
    _set_pad_of_embedding(model, tokenizer)
    model.config.problem_type = "regression"
    model.config.sentence_transformers = {"activation_fn": "torch.nn.modules.linear.Identity"}
    model.config.hf_reward_version = __version__


def embedding_rows(model: PreTrainedModel) -> int:
    """Number of tokens that the embedding has a row for."""
    embedding: Any = model.get_input_embeddings()
    return full_shape(embedding.weight)[0]


def _check_pad_of_positions(model: PreTrainedModel, tokenizer: Tokenizer) -> None:
    """RoBERTa and its kin number positions from the pad id on; another pad token would shift all of them."""
    pad = model.config.pad_token_id
    if model.config.model_type in _POSITIONS_FROM_PAD and pad != tokenizer.pad_token_id:
        raise ConfigurationError(
            f"The tokenizer's pad token has the id {tokenizer.pad_token_id}, but a {model.config.model_type} model "
            f"numbers its positions from its own pad id {pad}. Use the tokenizer that belongs to the model, or give "
            "the token with that id by `pad_token`."
        )


def check_activation_checkpointing(model: PreTrainedModel, enabled: bool | None, kwargs: Any) -> None:
    """
    Refuse reentrant activation checkpointing where a model's layers share a part of the graph.

    Raises:
        `ConfigurationError`: It is a DeBERTa, whose layers share their relative positions.
    """
    if enabled and (kwargs or {}).get("use_reentrant") and model.config.model_type in ("deberta", "deberta-v2"):
        raise ConfigurationError(
            "`gradient_checkpointing_kwargs`: found use_reentrant: true with a DeBERTa, whose layers share their "
            "relative positions, so that the backward pass would fail; expected use_reentrant: false"
        )


def check_weights_stay(model: PreTrainedModel, processes: int) -> None:
    """
    Refuse to train a model of which a `device_map` has offloaded a part, or which it has split in each of several
    processes.

    Offloaded weights are brought back for each forward pass and thrown away after it, so no step could change them.

    Raises:
        `ConfigurationError`: It is such a model.
    """
    places = {str(place) for place in (getattr(model, "hf_device_map", None) or {}).values()}
    offloaded = places & ({"disk", "cpu"} if len(places - {"disk", "cpu"}) else {"disk"})
    if offloaded:
        raise ConfigurationError(
            f"`device_map`: found a model with weights offloaded to {' and '.join(sorted(offloaded))}, which cannot "
            "train (it can score); expected all of them on accelerators, or one `dtype` or quantisation that fits"
        )
    if len(places) > 1 and processes > 1:
        raise ConfigurationError(
            f"`device_map`: found a model split over {', '.join(sorted(places))} in each of {processes} processes; "
            "expected one process, or FSDP or DeepSpeed ZeRO-3, which split a model over processes"
        )


def _set_pad_of_embedding(model: PreTrainedModel, tokenizer: Tokenizer) -> None:
    """`nn.Embedding` gives no gradient to its padding row; that must be the pad token's, not one that is in use."""
    embedding: Any = model.get_input_embeddings()
    if getattr(embedding, "padding_idx", None) is not None:
        embedding.padding_idx = tokenizer.pad_token_id


def longest_input(config: PreTrainedConfig) -> int | None:
    """Number of tokens that the model has positions for, if its config says so."""
    config = config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None)
    if limit is not None and config.model_type in _POSITIONS_FROM_PAD:
        return int(limit) - int(config.pad_token_id) - 1
    return limit if limit is None else int(limit)


def disable_dropout(model: torch.nn.Module) -> None:
    """Set every dropout probability to 0, in modules and in the attention code that reads it from the config."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "dropout_prob", "dropout_p"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
