from pathlib import Path

import pytest

from hf_reward.cli.schema import hints
from hf_reward.config.seed_aliases import SEED_FIELDS, as_markdown, check_refused, combine
from hf_reward.errors import ConfigurationError


DOCUMENT = Path(__file__).parents[3] / "docs" / "seed_arguments.md"

# Every field of the three argument classes of open-instruct's reward model script, and `num_labels` of its
# documented command line.
ARGUMENTS = """
dataset_mixer_list dataset_mixer_eval_list dataset_mixer_list_splits dataset_mixer_eval_list_splits
dataset_transform_fn dataset_target_columns dataset_cache_mode dataset_local_cache_dir dataset_skip_cache
dataset_config_hash dataset_config_eval_hash max_token_length max_prompt_token_length cache_dataset_only
exp_name seed run_name eps learning_rate lr_scheduler_type warm_up_steps num_train_epochs
gradient_accumulation_steps per_device_train_batch_size per_device_eval_batch_size total_episodes world_size
micro_batch_size local_batch_size batch_size num_training_steps eval_freq num_evals with_tracking
wandb_project_name wandb_entity push_to_hub hf_entity hf_repo_id hf_repo_revision hf_repo_url output_dir
gs_bucket_path
""".split()
TOKENIZER = """
tokenizer_name_or_path tokenizer_revision trust_remote_code use_fast chat_template_name add_bos get_tokenizer_fn
tokenizer_files_hash use_slow_tokenizer tokenizer_name ground_truths_key sft_messages_key
""".split()
MODEL = """
model_name_or_path model_revision gradient_checkpointing dtype attn_implementation use_cache use_peft lora_r
lora_alpha lora_dropout lora_target_modules lora_modules_to_save lora_task_type load_in_8bit load_in_4bit
bnb_4bit_quant_type use_bnb_nested_quant num_labels
""".split()


def test_every_field_of_the_seed_has_a_row():
    assert list(SEED_FIELDS) == ARGUMENTS + TOKENIZER + MODEL


@pytest.mark.parametrize("row", SEED_FIELDS.values(), ids=lambda row: row.name)
def test_each_row_leads_to_a_field_of_ours_or_to_a_sentence(row):
    if row.kind == "same":
        assert row.ours == row.name
        assert row.name in hints()
    elif row.kind in ("alias", "combined"):
        assert row.ours in hints() or row.ours in ("WANDB_PROJECT", "WANDB_ENTITY")
        assert row.name not in hints()
    else:
        assert (row.ours, row.name in hints()) == ("", False)
        assert len(row.note.split()) >= 4
        check_refused(row, row.accepts[0])
        with pytest.raises(ConfigurationError, match="found 'another value'; expected "):
            check_refused(row, "another value")


def test_what_comes_later_names_where():
    planned = {name: row.note for name, row in SEED_FIELDS.items() if row.kind == "planned"}
    assert planned == {}


def test_values_that_go_together():
    assert combine({"exp_name": "first"}, seed="7") == ({"run_name": "first__7"}, {})
    assert combine({"exp_name": "first", "run_name": "mine"}, seed="7") == ({}, {})
    assert combine({"hf_entity": "me", "hub_model_id": "rm"}, seed="7") == ({"hub_model_id": "me/rm"}, {})
    assert combine({"hf_entity": "me", "hub_model_id": "me/rm"}, seed="7") == ({"hub_model_id": "me/rm"}, {})
    assert combine({"wandb_project_name": "p", "wandb_entity": "e"}, seed="7") == (
        {},
        {"WANDB_PROJECT": "p", "WANDB_ENTITY": "e"},
    )


@pytest.mark.parametrize("values", [{"hf_entity": "me"}, {"hf_entity": "me", "hub_model_id": "you/rm"}])
def test_an_account_without_its_repository_is_refused(values):
    with pytest.raises(ConfigurationError, match=r"^`hf_entity`: found 'me'"):
        combine(values, seed="1")


def test_the_document_is_the_table():
    assert DOCUMENT.read_text(encoding="utf-8") == as_markdown()
