import dataclasses
import pickle
import warnings

import pytest
import torch
from transformers import TrainingArguments
from trl import RewardConfig as TrlRewardConfig

from hf_reward.config import RewardConfig
from hf_reward.errors import ConfigurationError


def config(**values):
    return RewardConfig(output_dir="out", **values)


def names(kind):
    return {field.name for field in dataclasses.fields(kind)}


def pretend_accelerator(monkeypatch, *, bf16):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16)
    # The device itself is not there to be set up.
    monkeypatch.setattr(TrainingArguments, "__post_init__", lambda self: None)


def test_every_field_of_trl_is_accepted():
    assert names(TrlRewardConfig) - names(RewardConfig) == set()


def test_what_we_add_to_trl():
    ours = {"max_prompt_length", "add_bos", "score_head_init", "num_evals", "total_episodes"}
    ours |= {"overlong", "escape_special_tokens"}
    ours |= {"loss_type", "margin_mode", "label_smoothing", "tie_threshold", "eval_sample_pairs"}
    ours |= {"skip_non_finite_steps", "batch_layout", "max_tokens_per_batch"}
    assert names(RewardConfig) - names(TrlRewardConfig) == ours


def test_defaults_are_those_of_trl_except_five():
    pytest.importorskip("trl", minversion="1.16", reason="older ones do not have all of these defaults")
    theirs = {field.name: field for field in dataclasses.fields(TrlRewardConfig)}
    different = {
        field.name
        for field in dataclasses.fields(RewardConfig)
        if field.name in theirs and field.default != theirs[field.name].default
    }
    # "auto" and None are the same to us.
    assert different == {"learning_rate", "logging_nan_inf_filter", "pad_to_multiple_of", "gradient_checkpointing"}
    assert config().learning_rate == 1e-5
    assert config().logging_nan_inf_filter is False


def test_defaults():
    args = config()
    assert (args.logging_steps, args.batch_layout, args.max_length) == (10, "auto", 1024)
    assert (args.report_to, args.push_to_hub, args.pad_to_multiple_of) == ([], False, None)


def test_gradient_checkpointing_under_its_old_name_gives_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert config(gradient_checkpointing=True).activation_checkpointing is True
        assert config(gradient_checkpointing=False).activation_checkpointing is False
    assert config(activation_checkpointing=False).gradient_checkpointing is False


def test_episodes_cannot_be_counted_by_a_token_budget():
    assert config(max_tokens_per_batch=4096).max_tokens_per_batch == 4096
    with pytest.raises(ConfigurationError, match="`total_episodes`: found it with `max_tokens_per_batch`"):
        config(max_tokens_per_batch=4096, total_episodes=100)


def test_gradient_checkpointing_is_left_open_until_the_layout_is_known():
    for by_default in (True, False):
        args = config()
        assert args.checkpoint_activations(by_default) is by_default
        assert args.gradient_checkpointing is args.activation_checkpointing is by_default
        # Said by the user, it is not open.
        assert config(gradient_checkpointing=not by_default).checkpoint_activations(by_default) is not by_default
        assert config(activation_checkpointing=not by_default).checkpoint_activations(by_default) is not by_default


def test_bf16_is_off_on_a_cpu_unless_asked_for(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (config().bf16, config().use_cpu) == (False, False)
    asked = config(bf16=True)
    assert (asked.bf16, asked.use_cpu, asked.mixed_precision) == (True, True, "bf16")


@pytest.mark.parametrize(
    ("has_bf16", "values", "bf16"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"fp16": True}, False),
        (True, {"bf16": False}, False),
        (True, {"use_cpu": True}, False),
    ],
)
def test_bf16_is_on_where_the_accelerator_has_it(monkeypatch, has_bf16, values, bf16):
    pretend_accelerator(monkeypatch, bf16=has_bf16)
    assert config(**values).bf16 is bf16


def test_bf16_leaves_the_accelerator_in_use(monkeypatch):
    pretend_accelerator(monkeypatch, bf16=True)
    assert config(bf16=True).use_cpu is False


def test_fp16_without_an_accelerator_is_refused(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    with pytest.raises(ConfigurationError, match="`fp16`: found True, but this run has no accelerator"):
        config(fp16=True)


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("per_device_train_batch_size", 0, "0"),
        ("per_device_train_batch_size", 2.5, "2.5"),
        ("per_device_eval_batch_size", None, "None"),
        ("gradient_accumulation_steps", True, "True"),
        ("learning_rate", 0.0, "0.0"),
        ("learning_rate", float("inf"), "inf"),
        ("learning_rate", float("nan"), "nan"),
        ("learning_rate", "fast", "'fast'"),
        ("learning_rate", [1e-5], r"\[1e-05\]"),
        ("learning_rate", None, "None"),
        ("max_steps", 1.5, "1.5"),
        ("max_steps", 0, "0"),
        ("num_train_epochs", 0, "0"),
        ("num_train_epochs", None, "None"),
        ("max_length", 0, "0"),
        ("max_prompt_length", -1, "-1"),
        ("pad_to_multiple_of", "often", "'often'"),
        ("pad_to_multiple_of", 0, "0"),
        ("center_rewards_coefficient", float("inf"), "inf"),
        ("num_evals", -1, "-1"),
        ("total_episodes", 0, "0"),
        ("score_head_init", "zeros", "'zeros'"),
    ],
)
def test_what_cannot_work_is_refused_by_name(key, value, found):
    with pytest.raises(ConfigurationError, match=rf"^`{key}`: found {found}; expected "):
        config(**{key: value})


def test_epochs_do_not_matter_where_steps_are_given():
    assert config(max_steps=5, num_train_epochs=0).max_steps == 5


def test_numbers_as_text_are_converted():
    assert config(learning_rate="2e-5").learning_rate == 2e-5
    assert config(adam_epsilon="1e-6").adam_epsilon == 1e-6


@pytest.mark.parametrize(("given", "kept"), [("auto", None), ("none", None), ("null", None), ("8", 8), (8, 8)])
def test_pad_to_multiple_of_takes_the_words_of_trl(given, kept):
    assert config(pad_to_multiple_of=given).pad_to_multiple_of == kept


def test_the_hub_token_is_not_shown():
    args = config(hub_token="hf_secret")
    assert "hf_secret" not in repr(args)
    assert "hf_secret" not in str(args)
    assert "hf_secret" not in args.to_json_string()
    assert "hf_secret" not in str(args.given())
    assert b"hf_secret" not in pickle.dumps(args)
    assert pickle.loads(pickle.dumps(args)).learning_rate == args.learning_rate
    assert args.hub_token == "hf_secret"


def test_given_holds_what_was_asked_for_not_what_the_machine_made_of_it():
    args = config(bf16=True, learning_rate="2e-5", eval_strategy="steps", max_length=1024)
    assert args.given() == {"output_dir": "out", "bf16": True, "learning_rate": 2e-5, "eval_strategy": "steps"}
    assert args.eval_steps == 10


@pytest.mark.parametrize("kind", ["RewardConfig", "ModelArguments", "DataArguments"])
def test_every_field_of_ours_has_help_and_a_place_in_the_docstring(kind):
    import hf_reward.config

    cls = getattr(hf_reward.config, kind)
    inherited = names(TrainingArguments) if kind == "RewardConfig" else set()
    # A part of the fields may stand in a class of ours that this one extends.
    documentation = "".join(base.__doc__ or "" for base in cls.__mro__ if base.__module__.startswith("hf_reward"))
    for field in dataclasses.fields(cls):
        if field.name not in inherited:
            assert field.metadata["help"].endswith(".")
            assert f"\n        {field.name} (`" in documentation
