"""RewardScorer gives the training rewards, and scores what was not made here by its own forward."""

import copy
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hf_reward import DataError, RewardConfig, RewardScorer, RewardTrainer
from hf_reward.modeling.loading import prepare_model


@pytest.fixture
def ours(reward_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Path:
    prepare_model(reward_model, tokenizer)
    reward_model.save_pretrained(tmp_path / "ours")
    tokenizer.save_pretrained(tmp_path / "ours")
    return tmp_path / "ours"


def test_scores_are_the_rewards_of_training(
    reward_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, chat_pairs: Dataset, ours: Path, tmp_path: Path
) -> None:
    trainer = RewardTrainer(
        copy.deepcopy(reward_model),
        RewardConfig(output_dir=str(tmp_path / "t"), use_cpu=True, report_to="none", per_device_eval_batch_size=3),
        eval_dataset=chat_pairs,
        processing_class=copy.deepcopy(tokenizer),
    )
    trained = torch.tensor(trainer.predict(chat_pairs).predictions)
    scorer = RewardScorer.from_pretrained(ours)
    for column, side in enumerate(("chosen", "rejected")):
        scores = scorer.score([row["prompt"] + row[side] for row in chat_pairs], batch_size=2)
        assert scores == pytest.approx(trained[:, column].tolist(), abs=1e-6)


def test_order_and_batch_size_do_not_matter(ours: Path) -> None:
    scorer = RewardScorer.from_pretrained(ours)
    texts = ["a", "much longer text than the first", "middle one", "b"]
    alone = [scorer.score(text)[0] for text in texts]
    assert scorer.score(texts, batch_size=3) == pytest.approx(alone, abs=5e-6)
    assert scorer.score(texts[::-1]) == pytest.approx(alone[::-1], abs=5e-6)
    assert len(set(alone)) == 4


def test_one_conversation_alone_is_one_reward(ours: Path) -> None:
    scorer = RewardScorer.from_pretrained(ours)
    conversation = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    assert scorer.score(conversation) == scorer.score([conversation])
    assert len(scorer.score(conversation)) == 1


@pytest.mark.parametrize("bad", [[1], [[]], [["a"]], [{"role": "user"}, 3]])
def test_what_is_neither_text_nor_conversation_is_named(bad: list, ours: Path) -> None:
    with pytest.raises(DataError, match="Input 0 is"):
        RewardScorer.from_pretrained(ours).score([bad[0]] if not isinstance(bad[0], dict) else [bad])


@pytest.mark.parametrize("pad", ["eos", "none"])
def test_a_checkpoint_made_elsewhere_is_scored_by_its_own_forward(
    pad: str,
    reward_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tokenizer.pad_token = tokenizer.eos_token if pad == "eos" else None
    reward_model.config.pad_token_id = tokenizer.eos_token_id if pad == "eos" else None
    reward_model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    texts = ["one text", "another text that is longer"]
    scores = RewardScorer.from_pretrained(tmp_path).score(texts)
    with torch.no_grad():
        own = [
            reward_model(torch.tensor([[*tokenizer(text)["input_ids"], tokenizer.eos_token_id]])).logits[0, 0].item()
            for text in texts
        ]
    assert scores == pytest.approx(own, abs=1e-5)
    assert ("reads another token than the last one" in caplog.text) == (pad == "eos")
