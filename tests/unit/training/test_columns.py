"""Columns of raw rows reach the loss and the metrics: soft preferences, ties, scores of ranked groups, subsets."""

from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hf_reward import RewardConfig, RewardTrainer


def nll(difference: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(-difference))


def evaluated(model, tokenizer, rows: Dataset, folder: Path, **settings) -> tuple[dict[str, float], np.ndarray]:
    args = RewardConfig(
        output_dir=str(folder), use_cpu=True, report_to="none", per_device_eval_batch_size=3, **settings
    )
    output = RewardTrainer(model, args, processing_class=tokenizer).predict(rows)
    return output.metrics, output.predictions.astype(np.float64)


def test_soft_preferences(
    reward_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, chat_pairs: Dataset, tmp_path: Path
) -> None:
    probability = np.array([1.0, 0.75, 0.6, 0.9, 0.2, 0.5, 1.0])
    rows = chat_pairs.add_column("chosen_probability", probability.tolist())
    metrics, rewards = evaluated(reward_model, tokenizer, rows, tmp_path)
    difference = rewards[:, 0] - rewards[:, 1]
    expected = probability * nll(difference) + (1 - probability) * nll(-difference)
    assert metrics["test_loss"] == pytest.approx(expected.mean(), abs=1e-6)


def test_ties(
    reward_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, chat_pairs: Dataset, tmp_path: Path
) -> None:
    tie = np.array([False, True, False, False, True, False, False])
    metrics, rewards = evaluated(reward_model, tokenizer, chat_pairs.add_column("tie", tie.tolist()), tmp_path)
    difference = rewards[:, 0] - rewards[:, 1]
    expected = np.where(tie, (nll(difference) + nll(-difference)) / 2, nll(difference))
    assert metrics["test_loss"] == pytest.approx(expected.mean(), abs=1e-6)
    assert metrics["test_accuracy"] == pytest.approx((difference[~tie] > 0).mean())


def test_scores_of_ranked_completions(
    reward_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    rows = Dataset.from_list(
        [
            {
                "prompt": "Name a colour.",
                "completions": ["Blue.", "A dog.", "Red, I think."],
                "scores": [2.0, -1.0, 0.5],
            },
            {"prompt": "Count.", "completions": ["One, two.", "No."], "scores": [1.0, 0.0]},
        ]
    )
    metrics, rewards = evaluated(reward_model, tokenizer, rows, tmp_path, loss_type="regression")
    # Completions stand best first, by their scores; the second group has no third one.
    scores = np.array([[2.0, 0.5, -1.0], [1.0, 0.0, np.nan]])
    assert np.isnan(rewards[1, 2])
    expected = np.nanmean((rewards - scores) ** 2, axis=1).mean()
    assert metrics["test_loss"] == pytest.approx(expected, abs=1e-5)


def test_subsets(
    reward_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, chat_pairs: Dataset, tmp_path: Path
) -> None:
    subset = ["easy", "hard", "easy", "hard", "hard", "easy", "hard"]
    metrics, rewards = evaluated(reward_model, tokenizer, chat_pairs.add_column("subset", subset), tmp_path)
    right = rewards[:, 0] > rewards[:, 1]
    for name in ("easy", "hard"):
        members = np.array(subset) == name
        assert metrics[f"test_{name}_pairs"] == members.sum()
        assert metrics[f"test_{name}_accuracy"] == pytest.approx(right[members].mean())
