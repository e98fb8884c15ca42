"""Adapters give the same rewards after saving, loading, resuming and merging."""

import copy
import json
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import (
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3MoeConfig,
)

from hf_reward import ConfigurationError, ModelArguments, RewardConfig, RewardScorer, RewardTrainer, load_reward_model
from hf_reward.inference.merging import compare, merge, merge_folder, probe_rows, rewards_of
from hf_reward.modeling.adapters import lora_config
from hf_reward.modeling.quantization import quantization_config
from tests.conftest import llama_config


KINDS = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "all-linear": {"lora_target_modules": ["all-linear"]},
    "whole embedding": {"lora_modules_to_save": ["embed_tokens"]},
}


@pytest.fixture
def base_folder(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    torch.manual_seed(0)
    folder = tmp_path / "base"
    LlamaForCausalLM(llama_config()).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def train(
    base: Path | str, data: Dataset, tokenizer, folder: Path, arguments: dict, resume: bool = False, **settings
) -> RewardTrainer:
    """A few steps large enough that the low-rank updates are far from zero."""
    config = {
        "output_dir": str(folder),
        "use_cpu": True,
        "report_to": "none",
        "max_steps": 6,
        "per_device_train_batch_size": 4,
        "learning_rate": 2e-2,
        "lr_scheduler_type": "constant",
        "save_strategy": "no",
        "gradient_checkpointing": False,
    }
    model_args = ModelArguments("m", use_peft=True, lora_r=4, **arguments)
    quantization = quantization_config(model_args)
    trainer = RewardTrainer(
        load_reward_model(str(base), dtype=settings.pop("dtype", None), quantization_config=quantization),
        RewardConfig(**(config | settings)),
        train_dataset=data,
        processing_class=copy.deepcopy(tokenizer),
        peft_config=lora_config(model_args),
    )
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_model()
    return trainer


def quantized(arguments: dict) -> BitsAndBytesConfig | None:
    return quantization_config(ModelArguments("m", use_peft=True, **arguments))


def rewards(trainer: RewardTrainer) -> torch.Tensor:
    with trainer.reward_forward():
        return rewards_of(trainer.model, trainer.processing_class)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_merged_rewards_are_those_of_training(
    kind: str, base_folder: Path, chat_pairs: Dataset, tokenizer, tmp_path
) -> None:
    trainer = train(base_folder, chat_pairs, tokenizer, tmp_path / "adapter", KINDS[kind])
    assert all(weight.abs().max() > 1e-3 for name, weight in trainer.model.named_parameters() if ".lora_B." in name)
    trained = rewards(trainer)
    assert trained.std() > 0.3
    untrained = rewards_of(load_reward_model(str(base_folder)), tokenizer)
    assert (trained - untrained).abs().max() > 0.1
    saved = RewardScorer.from_pretrained(tmp_path / "adapter", device="cpu")
    assert isinstance(saved.model, PeftModel)
    torch.testing.assert_close(saved.score_ids(probe_rows(tokenizer)), trained, rtol=0, atol=1e-6)
    check = merge_folder(tmp_path / "adapter", tmp_path / "merged")
    assert check.largest <= 1e-5
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(rewards_of(plain, tokenizer, own_forward=True), trained, rtol=0, atol=1e-5)
    assert (plain.config.num_labels, plain.config.problem_type) == (1, "regression")
    assert plain.config.sentence_transformers == {"activation_fn": "torch.nn.modules.linear.Identity"}
    assert plain.config.pad_token_id == tokenizer.pad_token_id
    again = RewardScorer.from_pretrained(tmp_path / "merged", device="cpu")
    assert again.tokenizer.chat_template == trainer.processing_class.chat_template


@pytest.mark.parametrize("arguments", [{}, {"load_in_4bit": True}], ids=["lora", "qlora"])
def test_resuming_an_adapter_is_bit_for_bit(
    arguments: dict, base_folder: Path, chat_pairs: Dataset, tokenizer, tmp_path
) -> None:
    settings = {"save_strategy": "steps", "save_steps": 3}
    whole = train(base_folder, chat_pairs, tokenizer, tmp_path / "whole", arguments, **settings)
    parts = (base_folder, chat_pairs, tokenizer, tmp_path / "parts", arguments)
    train(*parts, **settings | {"max_steps": 3})
    trainer = train(*parts, resume=True, **settings)
    assert trainer.state.global_step == 6
    one, two = whole.model.state_dict(), trainer.model.state_dict()
    assert {name for name in one if not torch.equal(one[name], two[name])} == set()
    checkpoint = RewardScorer.from_pretrained(
        tmp_path / "parts" / "checkpoint-6", device="cpu", quantization_config=quantized(arguments)
    )
    torch.testing.assert_close(checkpoint.score_ids(probe_rows(tokenizer)), rewards(whole), rtol=0, atol=1e-6)


def test_a_new_pad_token_comes_with_the_adapter(base_folder: Path, chat_pairs: Dataset, tokenizer, tmp_path) -> None:
    tokenizer.add_special_tokens({"pad_token": "<new>"})
    trainer = train(base_folder, chat_pairs, tokenizer, tmp_path / "adapter", {})
    row = trainer.model.get_base_model().get_input_embeddings().weight[262]
    saved = RewardScorer.from_pretrained(tmp_path / "adapter", device="cpu")
    assert torch.equal(saved.model.get_base_model().get_input_embeddings().weight[262], row)
    merge_folder(tmp_path / "adapter", tmp_path / "merged")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert torch.equal(plain.get_input_embeddings().weight[262], row)
    assert plain.config.vocab_size == 263


def test_no_path_of_this_machine_lies_beside_an_adapter(
    base_folder: Path, chat_pairs: Dataset, tokenizer, tmp_path
) -> None:
    train(base_folder, chat_pairs, tokenizer, tmp_path / "out", {}, save_strategy="steps", save_steps=6)
    for folder in (tmp_path / "out", tmp_path / "out" / "checkpoint-6"):
        assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "base"
        assert not (folder / "README.md").exists()
        for path in [path for path in folder.iterdir() if path.is_file()]:
            assert str(tmp_path).encode() not in path.read_bytes(), path
    # In memory nothing is changed: PEFT still finds the base model there.
    moved = tmp_path / "elsewhere" / "far" / "away" / "deep" / "down" / "adapter"
    moved.parent.mkdir(parents=True)
    (tmp_path / "out" / "checkpoint-6").rename(moved)
    with pytest.raises(ConfigurationError, match="belongs to the model 'base', which could not be loaded; say where"):
        RewardScorer.from_pretrained(moved)
    RewardScorer.from_pretrained(moved, base_model=base_folder)


def test_merging_into_bfloat16_measures_the_difference(
    base_folder: Path, chat_pairs: Dataset, tokenizer, tmp_path
) -> None:
    train(base_folder, chat_pairs, tokenizer, tmp_path / "adapter", {})
    check = merge_folder(tmp_path / "adapter", tmp_path / "merged", dtype="bfloat16")
    assert 1e-5 < check.largest < 0.2
    assert check.spread > 0.3
    assert f"differ by at most {check.largest:.1e} from the adapter's" in str(check)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged", dtype="auto")
    assert plain.model.layers[0].self_attn.q_proj.weight.dtype == torch.bfloat16


def test_a_bfloat16_base_keeps_its_head_in_float32(
    base_folder: Path, chat_pairs: Dataset, tokenizer, tmp_path
) -> None:
    trainer = train(base_folder, chat_pairs, tokenizer, tmp_path / "adapter", {}, dtype=torch.bfloat16)
    head = trainer.model.get_base_model().score.modules_to_save["default"].weight
    assert head.dtype == torch.float32
    saved = RewardScorer.from_pretrained(tmp_path / "adapter", dtype=torch.bfloat16, device="cpu")
    assert torch.equal(saved.model.get_base_model().score.modules_to_save["default"].weight, head)
    torch.testing.assert_close(saved.score_ids(probe_rows(tokenizer)), rewards(trainer), rtol=0, atol=1e-6)


def test_experts_get_adapters_by_parameter(chat_pairs: Dataset, tokenizer, tmp_path) -> None:
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=262,
        hidden_size=16,
        moe_intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        num_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=256,
        initializer_range=0.3,
        pad_token_id=0,
        eos_token_id=2,
        num_labels=1,
    )
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "base")
    names = {"lora_target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}
    trainer = train(tmp_path / "base", chat_pairs, tokenizer, tmp_path / "adapter", names)
    updates = {name: weight for name, weight in trainer.model.named_parameters() if ".lora_B." in name}
    assert len([name for name in updates if "experts" in name]) == 2
    assert all(weight.abs().max() > 1e-3 for weight in updates.values())
    trained = rewards(trainer)
    saved = RewardScorer.from_pretrained(tmp_path / "adapter", device="cpu")
    torch.testing.assert_close(saved.score_ids(probe_rows(tokenizer)), trained, rtol=0, atol=1e-6)
    assert merge_folder(tmp_path / "adapter", tmp_path / "merged").largest <= 1e-5


def test_a_merge_that_changes_rewards_is_refused(base_folder: Path, chat_pairs: Dataset, tokenizer, tmp_path) -> None:
    from hf_reward.errors import RunError

    trainer = train(base_folder, chat_pairs, tokenizer, tmp_path / "adapter", {})
    before = rewards(trainer)
    merged = merge(trainer.model, tokenizer)
    merged.score.weight.data[0, 0] += 0.01
    merged.save_pretrained(tmp_path / "merged")
    with pytest.raises(RunError, match=r"The merged model is not the adapter: rewards of 16 generated texts differ"):
        compare(before, tmp_path / "merged", tokenizer, "float32")
    assert compare(before, tmp_path / "merged", tokenizer, "float32", exact=False).largest > 1e-4


def test_a_reward_of_an_adapter_does_not_depend_on_the_task_type_given(reward_model, tokenizer, chat_pairs, tmp_path):
    trainer = RewardTrainer(
        reward_model,
        RewardConfig(output_dir=str(tmp_path), use_cpu=True, max_steps=1, save_strategy="no", report_to="none"),
        train_dataset=chat_pairs,
        processing_class=tokenizer,
        peft_config=LoraConfig(r=2),
    )
    assert trainer.model.peft_config["default"].task_type == "SEQ_CLS"


@pytest.mark.parametrize(
    ("arguments", "stored"), [({"load_in_4bit": True}, torch.uint8), ({"load_in_8bit": True}, torch.int8)]
)
def test_over_a_quantised_base_adapter_and_head_train_in_float32(
    arguments: dict, stored: torch.dtype, base_folder: Path, chat_pairs: Dataset, tokenizer, tmp_path
) -> None:
    trainer = train(base_folder, chat_pairs, tokenizer, tmp_path / "adapter", arguments)
    model = trainer.model.get_base_model()
    untrained = load_reward_model(str(base_folder), quantization_config=quantized(arguments))
    for name, weight in untrained.named_parameters():
        if name.endswith("_proj.weight"):
            assert weight.dtype == stored, name
            path, _, leaf = name.rpartition(".")
            base = model.get_submodule(path)
            assert torch.equal(getattr(getattr(base, "base_layer", base), leaf), weight), name
    assert all(weight.abs().max() > 1e-3 for name, weight in trainer.model.named_parameters() if ".lora_B." in name)
    head = model.score.modules_to_save["default"]
    assert (type(head), head.weight.dtype) == (torch.nn.Linear, torch.float32)
    assert (head.weight - untrained.score.weight).abs().max() > 1e-2
    computed = []
    head.register_forward_hook(lambda module, inputs, output: computed.append(output.dtype))
    with trainer.reward_forward(), torch.autocast("cpu", torch.bfloat16):
        rewards_of(trainer.model, trainer.processing_class)
    assert set(computed) == {torch.float32}
    trained = rewards(trainer)
    assert trained.std() > 0.3
    saved = RewardScorer.from_pretrained(tmp_path / "adapter", device="cpu", quantization_config=quantized(arguments))
    torch.testing.assert_close(saved.score_ids(probe_rows(tokenizer)), trained, rtol=0, atol=1e-6)


@pytest.mark.parametrize("arguments", [{"load_in_4bit": True, "use_bnb_nested_quant": True}, {"load_in_8bit": True}])
def test_a_merge_after_quantised_training_says_the_difference(
    arguments: dict, base_folder: Path, chat_pairs: Dataset, tokenizer, tmp_path, caplog
) -> None:
    from hf_reward.cli.train import run_training

    chat_pairs.select(range(5)).to_json(tmp_path / "train.jsonl")
    chat_pairs.select(range(5, 7)).to_json(tmp_path / "eval.jsonl")
    with caplog.at_level("INFO"):
        result = run_training(
            model_name_or_path=str(base_folder),
            dataset_name=str(tmp_path / "train.jsonl"),
            eval_dataset_name=str(tmp_path / "eval.jsonl"),
            output_dir=str(tmp_path / "out"),
            use_peft=True,
            lora_r=4,
            merge_adapter=True,
            max_steps=4,
            learning_rate=1e-2,
            save_strategy="no",
            **arguments,
        )
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert getattr(plain, "is_quantized", False) is False
    evaluated = result.eval_metrics
    assert plain.config.reward_std == pytest.approx(evaluated["eval_reward_std"], abs=1e-5)
    mean = (evaluated["eval_chosen_reward"] + evaluated["eval_rejected_reward"]) / 2
    assert plain.config.reward_mean == pytest.approx(mean, abs=1e-5)
    adapter = RewardScorer.from_pretrained(
        tmp_path / "out" / "adapter", base_model=base_folder, device="cpu", quantization_config=quantized(arguments)
    )
    before, after = rewards_of(adapter.model, tokenizer), rewards_of(plain, tokenizer, own_forward=True)
    largest = (before - after).abs().max().item()
    assert largest > 1e-3
    assert f"adapter merged: rewards of 16 generated texts differ by at most {largest:.1e} from" in caplog.text
