"""Adapters: the head trains whatever the config says, quantisation, and names of base models."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForSequenceClassification, BertConfig, PreTrainedModel, RobertaConfig

from hf_reward import ConfigurationError, ModelArguments
from hf_reward.modeling.adapters import (
    add_adapter,
    check_head_trains,
    find_base_model,
    head_parameters,
    lora_config,
    public_base,
)
from hf_reward.modeling.quantization import quantization_config


def encoder(kind: type) -> PreTrainedModel:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return AutoModelForSequenceClassification.from_config(kind(vocab_size=64, num_labels=1, **sizes))


def with_updates(model: PeftModel) -> set[str]:
    """Names of the modules that got a low-rank update."""
    return {name.partition(".lora_A")[0] for name, _ in model.named_parameters() if ".lora_A." in name}


@pytest.mark.parametrize(
    "targets", ["all-linear", ["q_proj", "score"], ["score", "v_proj", "down_proj"], r".*(proj|score)"]
)
def test_the_head_of_a_decoder_never_gets_a_low_rank_update(targets, reward_model: PreTrainedModel) -> None:
    model = add_adapter(reward_model, LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    updated = with_updates(model)
    assert updated
    assert not [name for name in updated if "score" in name]
    if targets == "all-linear":
        kinds = {name.rpartition(".")[2] for name in updated}
        assert kinds == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert set(head_parameters(model)) == {"modules_to_save.default.weight"}
    assert all(parameter.requires_grad for parameter in head_parameters(model).values())


@pytest.mark.parametrize("targets", ["all-linear", ["query", "dense", "out_proj", "classifier"]])
@pytest.mark.parametrize("kind", [BertConfig, RobertaConfig])
def test_head_and_pooling_of_an_encoder_train_whole(kind, targets) -> None:
    model = add_adapter(encoder(kind), LoraConfig(r=2, target_modules=targets))
    updated = with_updates(model)
    assert updated
    assert not [name for name in updated if "classifier" in name or "pooler" in name]
    whole = {name for name, parameter in model.named_parameters() if parameter.requires_grad and "lora_" not in name}
    expected = {"classifier.modules_to_save.default.weight", "pooler.modules_to_save.default.dense.weight"}
    if kind is RobertaConfig:
        expected = {f"classifier.modules_to_save.default.{name}.weight" for name in ("dense", "out_proj")}
    found = {name.removeprefix("base_model.model.").removeprefix("bert.") for name in whole if "bias" not in name}
    assert found == expected


def test_modules_to_save_that_do_not_exist(reward_model: PreTrainedModel, caplog) -> None:
    with pytest.raises(ConfigurationError, match="`modules_to_save`: found embed_token, which LlamaForSequence"):
        add_adapter(reward_model, LoraConfig(r=2, modules_to_save=["embed_token"]))
    config = LoraConfig(r=2, modules_to_save=["lm_head", "embed_tokens"])
    model = add_adapter(reward_model, config)
    assert {"embed_tokens", "score"} <= set(config.modules_to_save)
    assert "lm_head" not in config.modules_to_save
    assert "lm_head is no module of a LlamaForSequenceClassification" in caplog.text
    assert model.get_base_model().model.embed_tokens.modules_to_save.default.weight.requires_grad


def test_targets_that_do_not_exist_are_refused(reward_model: PreTrainedModel) -> None:
    with pytest.raises(ConfigurationError, match=r"does not fit a LlamaForSequence.*found \['nothing'\]"):
        add_adapter(reward_model, LoraConfig(r=2, target_modules=["nothing"]))


def test_a_head_that_trains_but_would_not_be_saved_is_refused(reward_model: PreTrainedModel) -> None:
    model = get_peft_model(reward_model, LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(ConfigurationError, match=r"score head does not train \(weight is frozen\)"):
        check_head_trains(model)
    model.get_base_model().score.weight.requires_grad_(True)
    with pytest.raises(ConfigurationError, match="would train but not be saved"):
        check_head_trains(model)


def test_a_low_rank_update_of_the_head_itself_is_refused(reward_model: PreTrainedModel) -> None:
    model = get_peft_model(reward_model, LoraConfig(r=2, target_modules=["q_proj", "score"]))
    with pytest.raises(ConfigurationError, match=r"base_layer\.weight is frozen"):
        check_head_trains(model)


def test_the_head_of_a_half_precision_model_is_float32(reward_model: PreTrainedModel) -> None:
    model = add_adapter(reward_model.to(torch.bfloat16), LoraConfig(r=2))
    assert {parameter.dtype for parameter in head_parameters(model).values()} == {torch.float32}


def test_the_config_of_the_arguments() -> None:
    assert lora_config(ModelArguments("m")) is None
    config = lora_config(
        ModelArguments(
            "m", use_peft=True, lora_r=4, lora_target_modules=["all-linear"], use_rslora=True, lora_dropout=0.1
        )
    )
    assert (config.r, config.target_modules, config.use_rslora, config.lora_dropout) == (4, "all-linear", True, 0.1)
    assert config.task_type == "SEQ_CLS"
    experts = lora_config(ModelArguments("m", use_peft=True, lora_target_parameters=["mlp.experts.gate_up_proj"]))
    assert experts.target_parameters == ["mlp.experts.gate_up_proj"]
    assert experts.lora_dropout == 0.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"load_in_4bit": True}, "`load_in_4bit`: found it set without adapters"),
        ({"merge_adapter": True}, "`merge_adapter`: found it set without adapters"),
        ({"lora_target_parameters": ["a"]}, "`lora_target_parameters`: found it set without adapters"),
        ({"use_peft": True, "load_in_4bit": True, "load_in_8bit": True}, "`load_in_4bit`: found it with `load_in_8b"),
        ({"use_peft": True, "use_bnb_nested_quant": True}, "`use_bnb_nested_quant`: found it set; expected `load_in"),
        ({"bnb_4bit_quant_type": "int4"}, "`bnb_4bit_quant_type`: found 'int4'; expected one of nf4, fp4"),
        ({"use_peft": True, "from_scratch": True}, "`from_scratch`: found it with `use_peft`"),
        (
            {"use_peft": True, "from_scratch": True, "merge_adapter": True, "load_in_4bit": True},
            "`from_scratch`: found it with quantisation",
        ),
    ],
)
def test_arguments_that_do_not_go_together(values: dict, message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{message}"):
        ModelArguments("m", **values)


def test_quantisation_without_its_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert quantization_config(ModelArguments("m", use_peft=True)) is None
    monkeypatch.setattr("hf_reward.modeling.quantization.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match="`load_in_8bit`: found it set, but bitsandbytes is not installed"):
        quantization_config(ModelArguments("m", use_peft=True, load_in_8bit=True))


def test_quantisation_spares_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_reward.modeling.quantization.find_spec", lambda name: name)
    arguments = ModelArguments("m", use_peft=True, load_in_4bit=True, use_bnb_nested_quant=True, dtype="float16")
    config = quantization_config(arguments)
    assert (config.load_in_4bit, config.load_in_8bit) == (True, False)
    assert (config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant) == ("nf4", True)
    assert config.bnb_4bit_compute_dtype == torch.float16
    assert {"score", "classifier"} <= set(config.llm_int8_skip_modules)


def test_a_base_model_is_named_without_a_path_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path / "models" / "base"
    base.mkdir(parents=True)
    (base / "config.json").write_text("{}")
    cached = tmp_path / "hub" / "models--Qwen--Qwen3-0.6B" / "snapshots" / "abc"
    cached.mkdir(parents=True)
    assert public_base("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
    assert public_base(None) is None
    assert public_base(str(base)) == "base"
    assert public_base(str(cached)) == "Qwen/Qwen3-0.6B"
    monkeypatch.chdir(tmp_path)
    assert public_base(str(base)) == public_base("models/base") == "models/base"
    # Found again from the working directory, and from elsewhere by the adapter's place.
    assert find_base_model("models/base", "anywhere") == str(base)
    monkeypatch.chdir("/")
    assert find_base_model("models/base", tmp_path / "output" / "adapter") == str(base)
    assert find_base_model("base", tmp_path / "models" / "adapter") == str(base)
    assert find_base_model("Qwen/Qwen3-0.6B", tmp_path / "adapter") == "Qwen/Qwen3-0.6B"
    with pytest.raises(ConfigurationError, match="does not say which model it belongs to; name it by `base_model`"):
        find_base_model(None, tmp_path)
