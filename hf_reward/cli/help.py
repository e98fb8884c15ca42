"""The help of `hf_reward-train`: a short text from a rendered file, and a long one from the dataclasses."""

import textwrap
from dataclasses import MISSING, Field
from enum import Enum
from pathlib import Path
from typing import Any


_FILE = Path(__file__).with_name("help.txt")
_WIDTH = 98
_INDENT = 34

_USAGE = """\
Usage: hf_reward-train [RECIPE.yaml] [--key value ...]

Trains a reward model from preference pairs. A recipe is flat YAML with the keys below; values of
the command line win over the recipe's. Sizes are in pairs, lengths in tokens, steps in optimizer
steps. --help all lists every key, with those of transformers.TrainingArguments; --debug shows
the traceback of an error.

Examples:
  hf_reward-train recipe.yaml
  hf_reward-train recipe.yaml --learning_rate 2e-5 --output_dir output/second
  hf_reward-train recipe.yaml --accelerate_config zero3
  hf_reward-train --model_name_or_path Qwen/Qwen3-0.6B --dataset_name pairs.jsonl \\
      --output_dir output/first --dry_run
"""

# The groups of the short help. A key with text is one of `TrainingArguments`, said here in the words and units of
# reward training; a key without text is a field of ours and brings its own.
_GROUPS: dict[str, dict[str, str]] = {
    "Data": {
        "dataset_name": "",
        "dataset_config": "",
        "dataset_revision": "",
        "dataset_train_split": "",
        "dataset_test_split": "",
        "eval_dataset_name": "",
        "datasets": "",
        "eval_datasets": "",
        "dataset_mixer_list": "",
        "dataset_mixer_list_splits": "",
        "dataset_mixer_eval_list": "",
        "dataset_mixer_eval_list_splits": "",
        "eval_split_size": "",
        "streaming": "",
        "eval_overlap": "",
        "column_map": "",
        "dataset_format": "",
        "on_bad_row": "",
        "ranked_to_pairs": "",
        "min_score_gap": "",
        "margin_from_scores": "",
        "equal_scores": "",
        "score_column": "",
        "drop_identical": "",
        "drop_empty": "",
        "drop_contradictory": "",
        "drop_duplicates": "",
        "max_length": "",
        "max_prompt_length": "",
        "overlong": "",
        "escape_special_tokens": "",
        "chat_template_path": "",
        "eos_token": "",
        "pad_token": "",
        "add_bos": "",
        "pad_to_multiple_of": "",
        "batch_layout": "",
        "max_tokens_per_batch": "",
        "dataset_num_proc": "",
        "dataset_cache_dir": "",
        "dataset_skip_cache": "",
        "cache_dataset_only": "",
        "dataloader_num_workers": "Processes that load batches; 0 loads them in the training process.",
        "dry_run": "",
    },
    "Model": {
        "model_name_or_path": "",
        "model_revision": "",
        "from_scratch": "",
        "tokenizer_name_or_path": "",
        "tokenizer_revision": "",
        "dtype": "",
        "attn_implementation": "",
        "num_labels": "",
        "score_head_init": "",
        "disable_dropout": "",
        "trust_remote_code": "",
        "model_init_kwargs": "",
    },
    "Adapters (LoRA)": {
        "use_peft": "",
        "lora_r": "",
        "lora_alpha": "",
        "lora_dropout": "",
        "lora_target_modules": "",
        "lora_modules_to_save": "",
        "use_rslora": "",
        "use_dora": "",
        "lora_target_parameters": "",
        "merge_adapter": "",
        "load_in_8bit": "",
        "load_in_4bit": "",
        "bnb_4bit_quant_type": "",
        "use_bnb_nested_quant": "",
    },
    "Training": {
        "output_dir": "Folder of the model, the results and the checkpoints. Must be given.",
        "num_train_epochs": "Passes over the training pairs.",
        "max_steps": "Optimizer steps to train, instead of num_train_epochs; -1: by epochs.",
        "total_episodes": "",
        "per_device_train_batch_size": "Pairs per device and forward pass (twice as many sequences).",
        "gradient_accumulation_steps": "Forward passes per optimizer step.",
        "learning_rate": "",
        "lr_scheduler_type": "Course of the learning rate: linear, cosine, constant, ...",
        "warmup_steps": "Optimizer steps of linear warm-up; below 1, a fraction of the run's steps.",
        "optim": "Optimizer.",
        "weight_decay": "Weight decay, except for biases and norms.",
        "adam_beta1": "Decay of Adam's mean of gradients.",
        "adam_beta2": "Decay of Adam's mean of squared gradients.",
        "adam_epsilon": "Constant in Adam's denominator.",
        "max_grad_norm": "Norm to which gradients are clipped; 0: no clipping.",
        "loss_type": "",
        "margin_mode": "",
        "label_smoothing": "",
        "tie_threshold": "",
        "center_rewards_coefficient": "",
        "skip_non_finite_steps": "",
        "bf16": "",
        "fp16": "Train in float16 mixed precision; needs an accelerator.",
        "tf32": "Use TF32 in float32 matrix products, where the GPU has it.",
        "gradient_checkpointing": "",
        "activation_offloading": "",
        "torch_compile": "Compile the model with torch.compile.",
        "deepspeed": "DeepSpeed configuration: a JSON file.",
        "use_cpu": "Train on the CPU, whatever else is there.",
        "seed": "Seed of the run: score head, order of the pairs, dropout.",
        "save_strategy": "When to save a checkpoint: no, steps, epoch or best.",
        "save_steps": "Optimizer steps between two checkpoints.",
        "save_total_limit": "Checkpoints to keep; older ones are deleted. Not set: all.",
        "load_best_model_at_end": "End with the checkpoint whose evaluation was best.",
        "metric_for_best_model": "What best means: a key of the evaluation, such as accuracy.",
        "resume_from_checkpoint": "Checkpoint to go on from: true (the newest whole one), auto (it, or none) or a "
        "folder.",
    },
    "Processes": {
        "accelerate_config": "",
        "num_processes": "",
        "num_machines": "",
        "machine_rank": "",
        "main_process_ip": "",
        "main_process_port": "",
        "ddp_timeout": "Seconds that a process waits for the others before the run ends with an error.",
    },
    "Evaluation and logging": {
        "eval_strategy": "When to evaluate: no, steps or epoch.",
        "eval_steps": "Optimizer steps between two evaluations. Not set: as logging_steps.",
        "eval_on_start": "Evaluate before the first step too.",
        "num_evals": "",
        "eval_sample_pairs": "",
        "per_device_eval_batch_size": "Pairs per device and forward pass of an evaluation.",
        "logging_steps": "",
        "logging_first_step": "Log the first optimizer step too.",
        "logging_nan_inf_filter": "",
        "report_to": "Trackers: tensorboard, wandb, trackio, all or none.",
        "run_name": "Name of the run in trackers.",
        "disable_tqdm": "Show no progress bars.",
    },
    "Hub": {
        "push_to_hub": "Upload the model with its card when it is saved.",
        "hub_model_id": "Repository, as account/name. Not set: the name of output_dir.",
        "hub_revision": "Branch to upload to. Not set: main.",
        "hub_private_repo": "Create the repository as a private one. Not set: as the account does.",
        "hub_strategy": "What to upload and when: end, every_save, checkpoint or all_checkpoints.",
    },
}


def render_help() -> str:
    """
    The short help, from the rendered file, without importing torch or transformers.

    Returns:
        `str`: The text, under 100 columns.
    """
    return _FILE.read_text(encoding="utf-8")


def render() -> str:
    """
    The short help, made from the dataclasses.

    Returns:
        `str`: What [`render_help`] must return.
    """
    from hf_reward.cli.schema import parameters

    table = parameters()
    return _text({title: {key: table[key] for key in keys} for title, keys in _GROUPS.items()})


def render_all() -> str:
    """
    The long help, made from the dataclasses: every key, and the seed's names.

    Returns:
        `str`: The text, under 100 columns.
    """
    from hf_reward.cli.schema import parameters
    from hf_reward.config.seed_aliases import SEED_FIELDS

    table = dict(parameters())
    groups = {title: {key: table.pop(key) for key in keys} for title, keys in _GROUPS.items()}
    groups["Everything else of transformers.TrainingArguments"] = table
    lines = ["Other names, as in open-instruct"]
    for row in SEED_FIELDS.values():
        if row.kind in ("alias", "combined"):
            ours = f"environment variable {row.ours}" if row.ours.isupper() else f"--{row.ours}"
            lines += _entry(row.name, f"{ours}; {row.note}" if row.note else ours, "")
    return _text(groups) + "\n" + "\n".join(lines) + "\n"


def _text(groups: dict[str, dict[str, Field[Any]]]) -> str:
    lines = [_USAGE]
    for title, parameters in groups.items():
        lines.append(title)
        for key, parameter in parameters.items():
            words = _GROUPS.get(title, {}).get(key) or str(parameter.metadata.get("help", "")).replace("%%", "%")
            lines += _entry(key, words, _default(parameter))
        lines.append("")
    return "\n".join(lines)


def _entry(key: str, words: str, default: str) -> list[str]:
    head = f"  --{key}"
    body = textwrap.wrap(f"{words} {default}".strip(), _WIDTH - _INDENT, break_on_hyphens=False)
    first = [head] if len(head) > _INDENT - 2 else [f"{head:<{_INDENT}}{body.pop(0)}"]
    return first + [" " * _INDENT + line for line in body]


def _default(parameter: Field[Any]) -> str:
    from hf_reward.config.reward_config import default_of

    value = default_of(parameter)
    if value is MISSING or value is None or value == [] or value == "":
        return ""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, bool):
        return "[on]" if value else "[off]"
    return f"[{' '.join(value)}]" if isinstance(value, list) else f"[{value}]"


if __name__ == "__main__":
    _FILE.write_text(render(), encoding="utf-8")
