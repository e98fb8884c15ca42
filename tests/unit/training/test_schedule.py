"""Steps of a run, counted as the trainer counts them, and evaluations spread over it."""

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hf_reward import RewardConfig, RewardTrainer
from hf_reward.training.schedule import evaluation_steps, optimizer_steps, pairs_per_step


def config(**values) -> RewardConfig:
    return RewardConfig(output_dir="unused", use_cpu=True, report_to="none", save_strategy="no", **values)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"per_device_train_batch_size": 2, "num_train_epochs": 3}, 12),  # 4 micro-batches an epoch
        ({"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4, "num_train_epochs": 2}, 4),
        ({"per_device_train_batch_size": 2, "dataloader_drop_last": True, "num_train_epochs": 1}, 3),
        ({"max_steps": 5}, 5),
        ({"per_device_train_batch_size": 2, "total_episodes": 9}, 4),
        ({"per_device_train_batch_size": 8, "num_train_epochs": 0.5}, 1),
    ],
)
def test_optimizer_steps_are_those_of_the_trainer(
    values: dict, expected: int, reward_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, chat_pairs: Dataset
) -> None:
    args = config(**values)
    assert optimizer_steps(args, len(chat_pairs)) == expected
    if args.total_episodes is not None:
        assert args.total_episodes // pairs_per_step(args) == expected
        return
    trainer = RewardTrainer(reward_model, args, train_dataset=chat_pairs, processing_class=tokenizer)
    trainer.train()
    assert trainer.state.global_step == expected


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 500), st.integers(1, 20))
def test_evaluations_are_spread_evenly_and_the_last_is_at_the_end(steps: int, evals: int) -> None:
    chosen = sorted(evaluation_steps(steps, evals))
    assert chosen[-1] == steps
    assert chosen[0] >= 1
    assert len(chosen) == min(evals, steps)
    gaps = [b - a for a, b in zip([0, *chosen[:-1]], chosen, strict=True)]
    assert max(gaps) - min(gaps) <= 1


def test_num_evals_evaluates_so_often_and_zero_is_none(
    reward_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, chat_pairs: Dataset
) -> None:
    for evals, expected in ((3, [2, 3, 5]), (0, [])):
        trainer = RewardTrainer(
            reward_model,
            config(num_evals=evals, max_steps=5),
            train_dataset=chat_pairs,
            eval_dataset=chat_pairs,
            processing_class=tokenizer,
        )
        trainer.train()
        assert [e["step"] for e in trainer.state.log_history if "eval_loss" in e] == expected
