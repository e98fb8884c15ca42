"""Where weights and activations lie: models that a `device_map` splits, and activations that wait elsewhere."""

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hf_reward import ConfigurationError, RewardConfig, RewardScorer, RewardTrainer
from hf_reward.inference.merging import rewards_of
from hf_reward.modeling.loading import check_weights_stay


SPLIT = {
    "head": {"model": "cpu", "score": "disk"},
    "layers": {
        **dict.fromkeys(("model.embed_tokens", "model.rotary_emb", "model.layers.0", "score"), "cpu"),
        **dict.fromkeys(("model.layers.1", "model.norm"), "disk"),
    },
    "all": {"": "disk"},
}


def only_where_all_can_be_offloaded(split: str) -> None:
    if split == "all":
        pytest.importorskip(
            "accelerate", minversion="1.15", reason="older ones refuse to offload a whole model to disk"
        )


@pytest.fixture
def saved(reward_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Path:
    reward_model.config.hf_reward_version = "0"
    reward_model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("split", SPLIT)
def test_a_model_split_by_device_map_gives_the_same_rewards(
    split: str, saved: Path, reward_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    only_where_all_can_be_offloaded(split)
    whole = rewards_of(copy.deepcopy(reward_model), tokenizer)
    scorer = RewardScorer.from_pretrained(saved, device_map=SPLIT[split], offload_folder=str(tmp_path / "aside"))
    assert scorer.model.hf_device_map == SPLIT[split]
    assert any(weight.device.type == "meta" for weight in scorer.model.parameters())
    assert torch.equal(rewards_of(scorer.model, tokenizer), whole)
    assert torch.equal(rewards_of(scorer.model, tokenizer, own_forward=True), whole)


@pytest.mark.parametrize("split", SPLIT)
def test_offloaded_weights_are_not_trained_in_silence(
    split: str, saved: Path, chat_pairs: Dataset, tmp_path: Path
) -> None:
    only_where_all_can_be_offloaded(split)
    init = {"device_map": SPLIT[split], "offload_folder": str(tmp_path / "aside")}
    with pytest.raises(ConfigurationError, match="`device_map`: found a model with weights offloaded to disk, which"):
        RewardTrainer(
            str(saved),
            RewardConfig(output_dir=str(tmp_path / "out"), use_cpu=True, model_init_kwargs=init),
            train_dataset=chat_pairs,
        )


def test_what_a_device_map_may_split_for_training() -> None:
    def model(*places: object) -> SimpleNamespace:
        return SimpleNamespace(hf_device_map={f"part{number}": place for number, place in enumerate(places)})

    for fine in (SimpleNamespace(), model("cpu"), model(0, 1), model(torch.device("cuda:0"), "cuda:1")):
        check_weights_stay(fine, processes=1)
    check_weights_stay(model(0), processes=2)
    with pytest.raises(ConfigurationError, match="weights offloaded to cpu and disk, which cannot train"):
        check_weights_stay(model(0, "cpu", "disk"), processes=1)
    with pytest.raises(ConfigurationError, match=r"a model split over 0, 1 in each of 2 processes; expected one proc"):
        check_weights_stay(model(0, 1), processes=2)


class Waiting:
    """Activations that are put aside in the forward and brought back in the backward pass, counted."""

    def __init__(self) -> None:
        self.steps = self.aside = self.back = 0
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        self.aside += 1
        return tensor.clone()

    def _unpack(self, tensor: torch.Tensor) -> torch.Tensor:
        self.back += 1
        return tensor

    def __enter__(self) -> None:
        self.steps += 1
        self.hooks.__enter__()

    def __exit__(self, *error: object) -> None:
        self.hooks.__exit__(*error)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_that_wait_elsewhere_change_nothing(
    checkpointing: bool,
    reward_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    chat_pairs: Dataset,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def trained(waiting: Waiting | None, offloading: bool) -> list[float]:
        args = RewardConfig(
            output_dir=str(tmp_path / "out"),
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            max_steps=3,
            logging_steps=1,
            learning_rate=1e-3,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            gradient_checkpointing=checkpointing,
            activation_offloading=offloading,
        )
        trainer = RewardTrainer(
            copy.deepcopy(reward_model), args, train_dataset=chat_pairs, processing_class=tokenizer
        )
        if waiting is not None:
            trainer._offloading = waiting
        trainer.train()
        return [entry[key] for entry in trainer.state.log_history if "loss" in entry for key in ("loss", "grad_norm")]

    plain = trained(None, offloading=False)
    assert len(plain) == 6
    # TRL's manager needs an accelerator; what the trainer does with it is seen with one of the same kind.
    waiting = Waiting()
    assert trained(waiting, offloading=True) == plain
    assert waiting.steps == 6
    assert waiting.aside >= waiting.back > 6
    caplog.clear()
    with caplog.at_level("INFO"):
        assert trained(None, offloading=True) == plain
    assert caplog.text.count("activation_offloading: off, because this run is on a CPU") == 1


@pytest.mark.parametrize(
    ("bf16", "has_instructions", "said"), [(True, False, 1), (True, True, 0), (False, False, 0), (None, False, 0)]
)
def test_bfloat16_on_a_processor_without_it_is_called_slow(
    bf16: bool | None,
    has_instructions: bool,
    said: int,
    reward_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    chat_pairs: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: has_instructions)
    args = RewardConfig(str(tmp_path), use_cpu=True, report_to="none", bf16=bf16)
    RewardTrainer(copy.deepcopy(reward_model), args, train_dataset=chat_pairs, processing_class=tokenizer)
    assert caplog.text.count("bf16: this processor has no bfloat16 instructions") == said
