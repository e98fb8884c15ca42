"""What a run was asked, written into its checkpoints, and compared when a run goes on from one."""

import hashlib
import json
import logging
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from hf_reward.config import RewardConfig
from hf_reward.data.cache import describe_tokenizer
from hf_reward.data.columns import LEARNED_FROM
from hf_reward.errors import ConfigurationError
from hf_reward.modeling.adapters import base_model
from hf_reward.training.manifest import read_manifest
from hf_reward.training.schedule import optimizer_steps, pairs_per_step


logger = logging.getLogger(__name__)

ASKED = "asked.json"

# Settings that a checkpoint has decided: a run that went on with others would not be what was asked for. Those of the
# optimizer are among them, because its saved state brings its own, which would win in silence.
DECIDED = (
    *("max_length", "max_prompt_length", "overlong", "escape_special_tokens"),
    *("loss_type", "margin_mode", "label_smoothing", "tie_threshold", "center_rewards_coefficient"),
    *("seed", "data_seed", "train_sampling_strategy", "dataloader_drop_last", "max_tokens_per_batch"),
    *("optim", "optim_args", "learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon"),
)
# Settings that hold from here on: the run goes on with them, and differs from one that had them from its start.
FROM_HERE_ON = (
    *("per_device_train_batch_size", "gradient_accumulation_steps", "ignore_data_skip", "batch_layout"),
    *("lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "max_grad_norm", "neftune_noise_alpha"),
    *("disable_dropout", "bf16", "fp16", "skip_non_finite_steps", "metric_for_best_model", "greater_is_better"),
)
# Settings of ours that change no number, or that are compared by what they lead to: template, tokenizer, model, steps.
HARMLESS = (
    *("gradient_checkpointing", "activation_offloading", "pad_to_multiple_of", "dataset_num_proc"),
    *("logging_steps", "logging_nan_inf_filter", "num_evals", "eval_sample_pairs", "trust_remote_code"),
    *("model_init_kwargs", "score_head_init", "chat_template_path", "eos_token", "pad_token", "add_bos"),
    "total_episodes",
)
_ADAPTER = ("r", "lora_alpha", "use_rslora", "use_dora")
_ROWS_AT_ONCE = 1000


def what_is_asked(trainer: Any) -> dict[str, Any]:
    """
    What decides the result of a trainer's run, without secrets and without paths of the machine.

    Args:
        trainer ([`RewardTrainer`]): Before its model is wrapped.
    """
    asked = asked_of_data(trainer.args, trainer.processing_class, trainer.train_dataset, trainer.eval_dataset)
    return asked | {"model": _describe_model(trainer.model)}


def asked_of_data(args: RewardConfig, tokenizer: Tokenizer, train: Any, evaluation: Any) -> dict[str, Any]:
    """The part of [`what_is_asked`] that is known before a model is loaded: settings, tokenizer and tokenised data."""
    described = describe_tokenizer(tokenizer)
    template = described.pop("chat_template")
    sets = evaluation if isinstance(evaluation, dict) else {"eval": evaluation}
    return {
        "settings": {name: _plain(getattr(args, name, None)) for name in (*DECIDED, *FROM_HERE_ON)},
        "steps": optimizer_steps(args, len(train) if isinstance(train, Dataset) else 1),
        "pairs_per_step": pairs_per_step(args),
        "processes": args.world_size,
        "data": describe_data(train),
        "evaluation": {name: describe_data(part) for name, part in sets.items() if part is not None},
        "chat_template": _digest(template),
        "tokenizer": _digest(described),
    }


def _describe_model(model: PreTrainedModel | PeftModel) -> dict[str, Any]:
    adapter = model.peft_config[model.active_adapter] if isinstance(model, PeftModel) else None
    return {
        "class": type(base_model(model)).__name__,
        "dtype": str(model.dtype),
        "parameters": sum(_shape(parameter).numel() for parameter in model.parameters()),
        "structure": _digest([(n, list(_shape(p)), p.requires_grad) for n, p in model.named_parameters()]),
        "adapter": adapter and {name: getattr(adapter, name, None) for name in _ADAPTER},
    }


def describe_data(dataset: Any) -> dict[str, Any]:
    """Rows of a prepared dataset, and a digest of what is learned from them; of a stream neither is known."""
    if not isinstance(dataset, Dataset):
        return {"rows": None, "digest": None}
    columns = sorted(set(LEARNED_FROM).intersection(dataset.column_names))
    digest = hashlib.blake2b(json.dumps(columns).encode(), digest_size=16)
    for table in dataset.select_columns(columns).with_format("arrow").iter(_ROWS_AT_ONCE):
        for column in table.columns:
            _add(digest, column.combine_chunks())
    return {"rows": len(dataset), "digest": digest.hexdigest()}


def check_same(checkpoint: Path, now: dict[str, Any]) -> None:
    """
    Compare what a run is asked with what the run of a checkpoint was asked; say what differs.

    Raises:
        `ConfigurationError`: The result would not be what is asked for.
    """
    check_decided(checkpoint, now)
    then = _asked_then(checkpoint)
    if then is None:
        logger.warning("%s holds no %s: what its run was asked cannot be compared", checkpoint.name, ASKED)
        return
    for difference in _from_here_on(then, now):
        logger.warning("resuming is not bit for bit: %s", difference)
    if now["data"]["digest"] is None:
        logger.warning("the training data is a stream: whether it is that of %s is not known", checkpoint.name)


def check_decided(checkpoint: Path, now: dict[str, Any]) -> None:
    """
    The refusals of [`check_same`]; `now` may be what is known before a model is loaded, [`asked_of_data`].

    Raises:
        `ConfigurationError`: The result would not be what is asked for.
    """
    then = _asked_then(checkpoint)
    decided = [] if then is None else _decided(then, now)
    if decided:
        raise ConfigurationError(
            f"{checkpoint.name} cannot be gone on from: {'; '.join(decided)}. Ask for what it was asked for, or start "
            "anew in another folder."
        )


def _asked_then(checkpoint: Path) -> dict[str, Any] | None:
    path = checkpoint / ASKED
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def check_mode(checkpoint: Path, mode: str, world_size: int) -> None:
    """
    See that the optimizer's state in a checkpoint is of the kind that this run reads.

    Raises:
        `ConfigurationError`: It is DeepSpeed's or FSDP's and would not be read, or there is none.
    """
    manifest = read_manifest(checkpoint)
    then, now = _kind(manifest["mode"] if manifest else mode), _kind(mode)
    if then != now:
        raise ConfigurationError(
            f"{checkpoint.name} was written under {then}, and this run is {now}, which cannot read its optimizer; go "
            f"on under {then}, or start from its weights as `model_name_or_path` in another folder."
        )
    if now == "DeepSpeed" and manifest is not None and manifest["world_size"] != world_size:
        raise ConfigurationError(
            f"{checkpoint.name} holds DeepSpeed's optimizer in {manifest['world_size']} parts, which {world_size} "
            f"processes cannot read; go on with {manifest['world_size']}."
        )
    if now == "one model per process" and not (checkpoint / "optimizer.pt").is_file():
        raise ConfigurationError(
            f"{checkpoint.name} holds no optimizer (`save_only_model`), so nothing can go on from it; start from its "
            "weights as `model_name_or_path` in another folder."
        )


def _decided(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Differences with which a run must not go on."""
    found = _differing(then["settings"], now["settings"], DECIDED)
    old, new = then["data"], now["data"]
    if old["digest"] != new["digest"] and None not in (old["digest"], new["digest"]):
        found.append(f"the training data is another ({old['rows']} pairs then, {new['rows']} now)")
    if then["pairs_per_step"] != now["pairs_per_step"]:
        found.append(
            f"an optimizer step had {then['pairs_per_step']} pairs, now it has {now['pairs_per_step']} (keep the "
            "product of `per_device_train_batch_size`, `gradient_accumulation_steps` and the number of processes)"
        )
    for name in ("chat_template", "tokenizer"):
        if then[name] != now[name]:
            found.append(f"the {name.replace('_', ' ')} is another")
    if "model" not in now:
        return found
    old, new = then["model"], now["model"]
    if old["structure"] != new["structure"] or old["class"] != new["class"]:
        found.append(
            f"the model is another: a {old['class']} of {old['parameters']:,} parameters then, a {new['class']} of "
            f"{new['parameters']:,} now"
        )
    elif old["adapter"] != new["adapter"]:
        found.append(f"the adapter was {old['adapter']}, now it is {new['adapter']}")
    return found


def _from_here_on(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Differences with which a run may go on, though no longer bit for bit."""
    found = _differing(then["settings"], now["settings"], FROM_HERE_ON)
    if then["steps"] != now["steps"] and "constant" not in str(now["settings"]["lr_scheduler_type"]):
        found.append(
            f"the run had {then['steps']} steps, now it has {now['steps']}, and the learning rate follows the new "
            "schedule from here on"
        )
    if then["processes"] != now["processes"]:
        found.append(f"it was written by {then['processes']} processes, now there are {now['processes']}")
    if then["model"]["dtype"] != now["model"]["dtype"]:
        found.append(f"the weights were {then['model']['dtype']}, now they are {now['model']['dtype']}")
    if then["evaluation"] != now["evaluation"]:
        found.append("the evaluation data is another, so that metrics, and the best one, do not compare")
    return found


def _differing(then: dict[str, Any], now: dict[str, Any], names: tuple[str, ...]) -> list[str]:
    return [
        f"`{name}` was {then[name]!r}, now it is {now[name]!r}"
        for name in names
        if name in then and then[name] != now[name]
    ]


def _kind(mode: str) -> str:
    return {"DEEPSPEED": "DeepSpeed", "FSDP": "FSDP"}.get(mode, "one model per process")


def _shape(parameter: Any) -> Any:
    """DeepSpeed ZeRO-3 keeps the shape of a parameter whose rows lie on several processes."""
    return getattr(parameter, "ds_shape", parameter.shape)


def _add(digest: Any, column: pa.Array) -> None:
    """Feed a column of numbers, or of lists of them, whatever the widths of its integers."""
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        digest.update(np.asarray(pc.list_value_length(column), dtype=np.int64).tobytes())
        _add(digest, column.flatten())
    else:
        values = column.to_numpy(zero_copy_only=False)
        digest.update(values.astype(np.int32 if pa.types.is_integer(column.type) else np.float64).tobytes())


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _plain(value: Any) -> Any:
    """A value as JSON gives it back."""
    return json.loads(json.dumps(value.value if isinstance(value, Enum) else value, default=str))
