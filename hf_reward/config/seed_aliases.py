"""
The table from the field names of open-instruct's `reward_modeling` (the seed system) to ours: every one of them works
here, or is answered by a sentence.
"""

from dataclasses import dataclass
from typing import Literal

from hf_reward.errors import ConfigurationError


Kind = Literal["same", "alias", "combined", "fixed", "computed", "planned", "absent"]

_KIND_WORDS = {
    "same": "same name",
    "alias": "other name",
    "combined": "translated",
    "fixed": "one value",
    "computed": "computed, not given",
    "planned": "not yet",
    "absent": "not offered",
}


_REASONS = {
    "fixed": "",
    "computed": "this is computed; ",
    "planned": "not offered yet; ",
    "absent": "not offered; ",
}


@dataclass(frozen=True)
class SeedField:
    """
    One field of the seed system and what answers to it here.

    Parameters:
        name (`str`):
            The seed's name.
        kind (`str`):
            `"same"`: our field of the same name. `"alias"`: our field `ours`. `"combined"`: its value goes into
            `ours` together with others. `"fixed"`, `"computed"`, `"planned"`, `"absent"`: no field of ours; only
            the values in `accepts`, at least one, are taken, and change nothing.
        ours (`str`, *optional*):
            Our field, or an environment variable.
        accepts (`tuple[str, ...]`, *optional*):
            Values taken in silence, as they are written; a list is written with single spaces.
        note (`str`, *optional*):
            What to know, or why the field is refused.
    """

    name: str
    kind: Kind
    ours: str = ""
    accepts: tuple[str, ...] = ()
    note: str = ""


def _same(name: str, note: str = "") -> SeedField:
    return SeedField(name, "same", name, note=note)


_TARGET_COLUMNS = " ".join(
    f"{side}_{column}" for side in ("chosen", "rejected") for column in ("input_ids", "labels", "attention_mask")
)
_CACHE_HASH = "follows from the sources and all options that matter; give the sources themselves"
_OBSERVED = "follows from the batch size, the accumulation and the number of processes; the run prints it"

_ARGS = (
    _same("dataset_mixer_list"),
    _same("dataset_mixer_eval_list"),
    _same("dataset_mixer_list_splits"),
    _same("dataset_mixer_eval_list_splits"),
    SeedField(
        "dataset_transform_fn",
        "fixed",
        accepts=("preference_tokenize_v1 preference_filter_v1",),
        note="pairs are always tokenised, then filtered by length; other transforms: prepare the rows beforehand",
    ),
    SeedField(
        "dataset_target_columns",
        "fixed",
        accepts=(_TARGET_COLUMNS,),
        note="the tokenised columns are chosen_input_ids, rejected_input_ids and prompt_length",
    ),
    SeedField(
        "dataset_cache_mode", "fixed", accepts=("local",), note="prepared data is kept on the machine that uses it"
    ),
    SeedField("dataset_local_cache_dir", "alias", "dataset_cache_dir"),
    _same("dataset_skip_cache"),
    SeedField("dataset_config_hash", "computed", accepts=("none",), note=_CACHE_HASH),
    SeedField("dataset_config_eval_hash", "computed", accepts=("none",), note=_CACHE_HASH),
    SeedField("max_token_length", "alias", "max_length", note="the default is 1024 tokens, there 512"),
    SeedField(
        "max_prompt_token_length", "alias", "max_prompt_length", note="the default is no limit, there 256 tokens"
    ),
    _same("cache_dataset_only"),
    SeedField(
        "exp_name",
        "combined",
        "run_name",
        note="exp_name and seed, joined by two underscores, unless run_name is given",
    ),
    _same("seed"),
    _same("run_name", "kept as given; there it is overwritten"),
    SeedField("eps", "alias", "adam_epsilon"),
    _same("learning_rate"),
    _same("lr_scheduler_type"),
    SeedField("warm_up_steps", "alias", "warmup_steps", note="optimizer steps"),
    _same("num_train_epochs"),
    _same("gradient_accumulation_steps"),
    _same("per_device_train_batch_size", "pairs"),
    _same("per_device_eval_batch_size", "pairs"),
    _same("total_episodes", "pairs; the run ends after them, unlike there"),
    SeedField("world_size", "computed", accepts=("none",), note="the launcher decides it; the run prints it"),
    SeedField("micro_batch_size", "computed", accepts=("none",), note=_OBSERVED),
    SeedField("local_batch_size", "computed", accepts=("none",), note=_OBSERVED),
    SeedField("batch_size", "computed", accepts=("none",), note=_OBSERVED),
    SeedField("num_training_steps", "computed", accepts=("none",), note="set max_steps to fix the optimizer steps"),
    SeedField("eval_freq", "computed", accepts=("none",), note="set num_evals, or eval_strategy and eval_steps"),
    _same("num_evals", "0 runs none"),
    SeedField("with_tracking", "alias", "report_to", note="true is wandb, false is none"),
    SeedField("wandb_project_name", "combined", "WANDB_PROJECT", note="set for the trackers"),
    SeedField("wandb_entity", "combined", "WANDB_ENTITY", note="set for the trackers"),
    _same("push_to_hub", "off by default, there on"),
    SeedField("hf_entity", "combined", "hub_model_id", note="the account, in front of hf_repo_id"),
    SeedField("hf_repo_id", "alias", "hub_model_id"),
    SeedField("hf_repo_revision", "alias", "hub_revision"),
    SeedField("hf_repo_url", "computed", accepts=("none",), note="follows from hub_model_id and hub_revision"),
    _same("output_dir", "the files lie in this folder itself, without a folder per run name; must be given"),
    SeedField("gs_bucket_path", "absent", accepts=("none",), note="copy output_dir with the tools of the storage"),
)
_TOKENIZER = (
    _same("tokenizer_name_or_path"),
    _same("tokenizer_revision"),
    _same("trust_remote_code"),
    SeedField("use_fast", "fixed", accepts=("true",), note="tokenizers are always the fast ones"),
    SeedField(
        "chat_template_name",
        "alias",
        "chat_template_path",
        note="the name of a shipped template, a Jinja file, or a tokenizer's id or folder; unknown names are refused",
    ),
    _same("add_bos"),
    SeedField(
        "get_tokenizer_fn",
        "fixed",
        accepts=("get_tokenizer_tulu_v2_2",),
        note="one rule for padding and templates serves every tokenizer",
    ),
    SeedField("tokenizer_files_hash", "computed", accepts=("none",), note="follows from the tokenizer's files"),
    SeedField("use_slow_tokenizer", "fixed", accepts=("false",), note="tokenizers are always the fast ones"),
    SeedField("tokenizer_name", "alias", "tokenizer_name_or_path"),
    SeedField("ground_truths_key", "absent", accepts=("ground_truth",), note="preference pairs have no such column"),
    SeedField("sft_messages_key", "absent", accepts=("messages",), note="preference pairs have no such column"),
)
_MODEL = (
    _same("model_name_or_path"),
    _same("model_revision"),
    _same("gradient_checkpointing", "on by default where rows are padded, there off"),
    _same("dtype"),
    _same("attn_implementation"),
    _same("use_cache"),
    _same("use_peft"),
    _same("lora_r"),
    _same("lora_alpha"),
    _same("lora_dropout"),
    _same("lora_target_modules"),
    _same("lora_modules_to_save"),
    SeedField(
        "lora_task_type",
        "fixed",
        accepts=("SEQ_CLS",),
        note="a reward model is a sequence classifier; with another task type the score head would be lost",
    ),
    _same("load_in_8bit"),
    _same("load_in_4bit"),
    _same("bnb_4bit_quant_type"),
    _same("use_bnb_nested_quant"),
    _same("num_labels", "1; stands in the documented command line"),
)

SEED_FIELDS: dict[str, SeedField] = {row.name: row for row in (*_ARGS, *_TOKENIZER, *_MODEL)}


def check_refused(row: SeedField, text: str) -> None:
    """
    Passes a value that changes nothing, and refuses every other, for a field of the seed that has none of ours.

    Args:
        row (`SeedField`):
            The field.
        text (`str`):
            The value as it is written, the values of a list joined by spaces.

    Raises:
        `ConfigurationError`: The value is not one of `row.accepts`.
    """
    if text in row.accepts or (text.lower() in row.accepts and text.lower() in ("true", "false", "none")):
        return
    raise ConfigurationError(f"found {text!r}; expected {row.accepts[0]}, or nothing: {_REASONS[row.kind]}{row.note}")


def combine(values: dict[str, str], seed: str) -> tuple[dict[str, str], dict[str, str]]:
    """
    Translates the fields of the seed whose values go together into ours.

    Args:
        values (`dict[str, str]`):
            Values of the fields of kind `"combined"`, and of our `run_name` and `hub_model_id` where they are given.
        seed (`str`):
            The run's seed, as it is written.

    Returns:
        `tuple[dict[str, str], dict[str, str]]`: Our fields to set, and environment variables to set.

    Raises:
        `ConfigurationError`: `hf_entity` has no model id to go in front of, or contradicts it.

    Example:
        >>> combine({"hf_entity": "me", "hub_model_id": "rm", "exp_name": "first"}, seed="1")
        ({'run_name': 'first__1', 'hub_model_id': 'me/rm'}, {})
    """
    fields: dict[str, str] = {}
    if "exp_name" in values and "run_name" not in values:
        fields["run_name"] = f"{values['exp_name']}__{seed}"
    if "hf_entity" in values:
        entity, model_id = values["hf_entity"], values.get("hub_model_id")
        if model_id is None:
            raise ConfigurationError(f"`hf_entity`: found {entity!r} alone; expected `hf_repo_id` with it")
        if "/" in model_id and not model_id.startswith(f"{entity}/"):
            raise ConfigurationError(
                f"`hf_entity`: found {entity!r}; expected the account of {model_id!r}, or nothing"
            )
        fields["hub_model_id"] = model_id if "/" in model_id else f"{entity}/{model_id}"
    environment = {
        row.ours: values[name]
        for name, row in SEED_FIELDS.items()
        if row.kind == "combined" and row.ours.isupper() and name in values
    }
    return fields, environment


def as_markdown() -> str:
    """
    The table as a page of the documentation.

    Returns:
        `str`: Markdown.
    """
    lines = [
        "# Arguments of open-instruct's `reward_modeling`",
        "",
        "Every argument of open-instruct's reward model script is understood in recipes and on the command line: it",
        "has a counterpart here, or it is answered by a sentence. Where both names of a setting are given in the same",
        "place, the command stops; where a recipe has one and the command line the other, the command line wins.",
        "",
        "This page is written by `python -m hf_reward.config.seed_aliases`.",
    ]
    for title, rows in (("Arguments", _ARGS), ("Tokenizer", _TOKENIZER), ("Model", _MODEL)):
        lines += ["", f"## {title}", "", "| There | Here | | Note |", "|---|---|---|---|"]
        for row in rows:
            here = f"`{row.ours}`" if row.ours else f"only `{row.accepts[0]}`"
            lines.append(f"| `{row.name}` | {here} | {_KIND_WORDS[row.kind]} | {row.note} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(as_markdown(), end="")
