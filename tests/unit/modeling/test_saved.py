"""After a save, the names and shapes on the disk are compared with the model."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from hf_reward.errors import RunError
from hf_reward.modeling.adapters import add_adapter, save_model
from hf_reward.modeling.saved import check_saved_weights, full_shape, saved_shapes


def change(path: Path, **weights: torch.Tensor | None) -> None:
    saved = load_file(path) | weights
    save_file({name: weight for name, weight in saved.items() if weight is not None}, path)


def test_a_whole_checkpoint_passes_in_one_file_and_in_several(reward_model: PreTrainedModel, tmp_path: Path) -> None:
    reward_model.save_pretrained(tmp_path / "one")
    check_saved_weights(reward_model, tmp_path / "one")
    reward_model.save_pretrained(tmp_path / "several", max_shard_size="50KB")
    assert len(list((tmp_path / "several").glob("model-*.safetensors"))) > 1
    check_saved_weights(reward_model, tmp_path / "several")
    shapes = saved_shapes(tmp_path / "several", "model")
    assert shapes == saved_shapes(tmp_path / "one", "model")
    assert shapes["score.weight"] == (1, 32)


@pytest.mark.parametrize(
    ("weight", "said"),
    [
        (None, r"1 of 21 weights .* score.weight \(missing\)"),
        # What DeepSpeed ZeRO-3 leaves on every process when nothing was gathered, and a part of FSDP's.
        (torch.zeros(0), r"score.weight \(shape \[0\]\)"),
        (torch.zeros(1, 16), r"score.weight \(shape \[1, 16\]\)"),
    ],
)
def test_a_head_that_is_missing_or_in_parts_is_found(
    weight: torch.Tensor | None, said: str, reward_model: PreTrainedModel, tmp_path: Path
) -> None:
    reward_model.save_pretrained(tmp_path)
    change(tmp_path / "model.safetensors", **{"score.weight": weight})
    with pytest.raises(RunError, match=said):
        check_saved_weights(reward_model, tmp_path)


def test_a_folder_without_weights_is_found(reward_model: PreTrainedModel, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"does not hold the model: 21 of 21 weights"):
        check_saved_weights(reward_model, tmp_path)


def test_an_adapter_must_hold_its_head(reward_model: PreTrainedModel, tmp_path: Path) -> None:
    model = add_adapter(reward_model, LoraConfig(task_type="SEQ_CLS", target_modules="all-linear"))
    save_model(model, tmp_path)
    check_saved_weights(model, tmp_path)
    change(tmp_path / "adapter_model.safetensors", **{"base_model.model.score.weight": None})
    with pytest.raises(RunError, match=r"base_model.model.score.weight \(missing\)"):
        check_saved_weights(model, tmp_path)


@pytest.mark.parametrize("kind", ["mixtral", "gpt2", "bert", "qwen3_moe"])
def test_weights_that_are_saved_under_other_names_or_in_parts_pass(kind: str, tmp_path: Path) -> None:
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    small |= {"moe_intermediate_size": 16} if "moe" in kind else {}
    config = AutoConfig.for_model(kind, vocab_size=32, num_labels=1, pad_token_id=0, **small)
    model = AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained(tmp_path)
    check_saved_weights(model, tmp_path)


def test_the_whole_shape_of_a_partitioned_parameter() -> None:
    parameter = torch.nn.Parameter(torch.zeros(0))
    assert full_shape(parameter) == (0,)
    parameter.ds_shape = torch.Size((262, 32))
    assert full_shape(parameter) == (262, 32)
