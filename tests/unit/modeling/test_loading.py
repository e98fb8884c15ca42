"""From a checkpoint to a reward model: heads fresh, saved, several or missing; what the config says."""

import math
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    LlamaModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

from hf_reward import ConfigurationError, RewardConfig, RewardTrainer, load_reward_model
from hf_reward.modeling.loading import disable_dropout, load_config, longest_input, prepare_model
from tests.conftest import llama_config


def test_a_causal_checkpoint_gets_a_fresh_head_of_the_stated_std(tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    causal = LlamaForCausalLM(llama_config(hidden_size=512, num_hidden_layers=1))
    causal.save_pretrained(tmp_path)
    model = load_reward_model(str(tmp_path), seed=5)
    assert model.score.weight.shape == (1, 512)
    assert model.score.weight.std().item() == pytest.approx(1 / math.sqrt(513), rel=0.1)
    assert model.dtype == torch.float32
    torch.testing.assert_close(model.model.embed_tokens.weight, causal.model.embed_tokens.weight)
    assert torch.equal(load_reward_model(str(tmp_path), seed=5).score.weight, model.score.weight)
    library = load_reward_model(str(tmp_path), seed=5, score_head_init="library").score.weight
    assert library.std().item() == pytest.approx(0.2, rel=0.1)  # the config's initializer_range


def test_a_saved_head_and_a_given_model_keep_theirs(
    reward_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, chat_pairs: Dataset, tmp_path: Path
) -> None:
    reward_model.save_pretrained(tmp_path)
    assert torch.equal(load_reward_model(str(tmp_path), seed=7).score.weight, reward_model.score.weight)
    before = reward_model.score.weight.detach().clone()
    trainer = RewardTrainer(
        reward_model,
        RewardConfig(output_dir=str(tmp_path), use_cpu=True),
        train_dataset=chat_pairs,
        processing_class=tokenizer,
    )
    assert torch.equal(trainer.model.score.weight, before)


def test_a_name_is_loaded_like_trl_does_it(causal_folder: Path, chat_pairs: Dataset, tmp_path: Path) -> None:
    trainer = RewardTrainer(
        str(causal_folder),
        RewardConfig(output_dir=str(tmp_path), use_cpu=True, model_init_kwargs={"dtype": "bfloat16"}),
        train_dataset=chat_pairs,
    )
    assert trainer.model.model.embed_tokens.weight.dtype == torch.bfloat16
    assert trainer.model.score.weight.dtype == torch.float32
    assert trainer.processing_class.pad_token == "<pad>"


def test_from_scratch_draws_all_weights_from_the_seed(causal_folder: Path) -> None:
    one, two = (load_reward_model(str(causal_folder), from_scratch=True, seed=seed) for seed in (1, 1))
    other = load_reward_model(str(causal_folder), from_scratch=True, seed=2)
    assert torch.equal(one.model.embed_tokens.weight, two.model.embed_tokens.weight)
    assert not torch.equal(one.model.embed_tokens.weight, other.model.embed_tokens.weight)


def test_what_is_no_reward_model_is_refused(tmp_path: Path, causal_folder: Path) -> None:
    three = AutoModelForSequenceClassification.from_config(llama_config(num_labels=3))
    three.save_pretrained(tmp_path / "three")
    with pytest.raises(ConfigurationError, match="3 labels; a reward model has one output"):
        load_config(str(tmp_path / "three"))
    with pytest.raises(ConfigurationError, match="has 3 outputs"):
        prepare_model(three, None)
    with pytest.raises(ConfigurationError, match="not a local folder"):
        load_config(str(tmp_path / "absent"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match=r"a local folder without a readable config\.json"):
        load_config(str(tmp_path / "empty"))
    with pytest.raises(ConfigurationError, match="holds no score head"):
        load_reward_model(str(causal_folder), allow_fresh_head=False)


def test_missing_backbone_weights_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    LlamaModel(llama_config(num_hidden_layers=1)).save_pretrained(tmp_path)
    llama_config(num_hidden_layers=2).save_pretrained(tmp_path)
    load_reward_model(str(tmp_path))
    assert "9 weights are not in the checkpoint" in caplog.text
    assert "model.layers.1" in caplog.text


def test_the_embedding_grows_for_a_new_pad_token(
    reward_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    tokenizer.add_special_tokens({"pad_token": "<new>"})
    prepare_model(reward_model, tokenizer)
    assert reward_model.get_input_embeddings().weight.shape[0] == len(tokenizer) == 263
    config = reward_model.config
    assert config.pad_token_id == 262
    assert config.problem_type == "regression"
    # The row that was padding before trains now; the new one is the padding row.
    assert reward_model.get_input_embeddings().padding_idx == 262


def test_longest_input() -> None:
    assert longest_input(llama_config()) == 512
    roberta = RobertaConfig(max_position_embeddings=514, pad_token_id=1)
    assert longest_input(roberta) == 512


def test_disable_dropout() -> None:
    config = BertConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64, num_labels=1
    )
    model = AutoModelForSequenceClassification.from_config(config).train()
    disable_dropout(model)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert torch.equal(model(ids).logits, model(ids).logits)
