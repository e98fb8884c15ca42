"""Whole runs: the layout and the budget of the batches change what is computed, not what comes out."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hf_reward import ConfigurationError, RewardConfig, RewardTrainer
from hf_reward.data.batching import row_tokens
from hf_reward.training.setup import prepare_dataset
from tests.equivalence.test_normalisation import train


LAYOUTS = ("padded", "packed", "shared_prompt")


def groups(chat_pairs: Dataset) -> Dataset:
    """Groups of two to four completions with weights."""
    others = [row["chosen"] for row in chat_pairs]
    rows = []
    for number, row in enumerate(chat_pairs):
        more = [other for other in others if other not in (row["chosen"], row["rejected"])][: number % 3]
        completions = [row["chosen"], row["rejected"], *more]
        rows.append({"prompt": row["prompt"], "completions": completions, "weight": 0.5 + number % 3})
    return Dataset.from_list(rows)


@pytest.mark.parametrize("ranked", [False, True])
@pytest.mark.parametrize("steps", [1, 4])
def test_losses_gradients_and_weights_do_not_depend_on_the_layout(
    ranked: bool,
    steps: int,
    reward_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    chat_pairs: Dataset,
    tmp_path: Path,
) -> None:
    data = groups(chat_pairs) if ranked else chat_pairs
    runs = {
        layout: train(
            reward_model,
            tokenizer,
            data,
            tmp_path,
            batch_layout=layout,
            per_device_train_batch_size=4 // steps,
            gradient_accumulation_steps=steps,
            num_train_epochs=3,
        )
        for layout in LAYOUTS
    }
    losses, gradients, weights, _ = runs["padded"]
    assert len(losses) == 6
    for layout in LAYOUTS[1:]:
        assert runs[layout][3].data_collator.layout == layout
        assert runs[layout][0] == pytest.approx(losses, abs=2e-5)
        for name, gradient in gradients.items():
            assert (runs[layout][1][name] - gradient).norm() <= 1e-5 * gradient.norm().clamp_min(1e-8), name
        for name, weight in weights.items():
            torch.testing.assert_close(runs[layout][2][name], weight, rtol=0, atol=1e-4)
        counters = [runs[name][3].counters for name in ("padded", layout)]
        assert counters[0].num_tokens == counters[1].num_tokens
        assert counters[0].num_pairs == counters[1].num_pairs


def config(folder: Path, **settings: Any) -> RewardConfig:
    values = {
        "output_dir": str(folder),
        "use_cpu": True,
        "report_to": "none",
        "logging_steps": 1,
        "learning_rate": 1e-3,
        "num_train_epochs": 3,
        "disable_tqdm": True,
    }
    return RewardConfig(**(values | settings))


@pytest.mark.parametrize("size", [1, 3, 8])
def test_evaluation_does_not_depend_on_the_layout(
    size: int, reward_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, chat_pairs: Dataset, tmp_path: Path
) -> None:
    found = {}
    for layout in LAYOUTS:
        args = config(tmp_path, batch_layout=layout, per_device_eval_batch_size=size)
        trainer = RewardTrainer(reward_model, args, eval_dataset=chat_pairs, processing_class=tokenizer)
        rewards = trainer.predict(chat_pairs).predictions
        assert trainer.choice.layout == layout
        found[layout] = trainer.evaluate(), torch.tensor(rewards)
    metrics, rewards = found["padded"]
    assert rewards.shape == (7, 2)
    for layout in LAYOUTS[1:]:
        torch.testing.assert_close(found[layout][1], rewards, rtol=0, atol=2e-6)
        for name, value in metrics.items():
            if not name.endswith(("_runtime", "_per_second", "_preparation_time")):
                assert found[layout][0][name] == pytest.approx(value, abs=1e-5), name


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_token_budget_uses_every_pair_once_an_epoch_and_resumes_bit_for_bit(
    layout: str,
    reward_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    chat_pairs: Dataset,
    tmp_path: Path,
) -> None:
    prepared = prepare_dataset(chat_pairs, tokenizer, config(tmp_path), "train")
    budget = int(2.5 * max(row_tokens(prepared, layout)))
    settings = {"batch_layout": layout, "max_tokens_per_batch": budget, "save_strategy": "steps", "save_steps": 4}
    sizes: list[int] = []

    class Watched(RewardTrainer):
        def training_step(self, model, inputs, *args, **kwargs):
            sizes.append(inputs["input_ids"].numel())
            return super().training_step(model, inputs, *args, **kwargs)

    def run(folder: Path, resume: str | None = None) -> RewardTrainer:
        trainer = Watched(
            copy.deepcopy(reward_model),
            config(folder, **settings),
            train_dataset=chat_pairs,
            processing_class=copy.deepcopy(tokenizer),
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = run(tmp_path / "whole")
    steps = whole.state.max_steps
    assert steps % 3 == 0
    assert steps // 3 in (3, 4)  # two or three of the seven pairs in each batch
    assert max(sizes) <= budget
    assert whole.counters.num_pairs == 3 * 7
    resumed = run(tmp_path / "resumed", str(tmp_path / "whole" / "checkpoint-4"))
    assert resumed.state.global_step == steps

    def history(trainer: RewardTrainer) -> list[dict[str, Any]]:
        keys = ("loss", "grad_norm", "accuracy", "num_tokens", "num_pairs")
        return [{key: entry[key] for key in keys} for entry in trainer.state.log_history if "loss" in entry]

    assert json.dumps(history(resumed)[-(steps - 4) :]) == json.dumps(history(whole)[-(steps - 4) :])
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], weight), name


def test_the_budget_that_a_row_exceeds_is_said_before_training(
    reward_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, chat_pairs: Dataset, tmp_path: Path
) -> None:
    args = config(tmp_path, max_tokens_per_batch=20)
    trainer = RewardTrainer(reward_model, args, train_dataset=chat_pairs, processing_class=tokenizer)
    with pytest.raises(ConfigurationError, match="`max_tokens_per_batch`: found 20, but row"):
        trainer.train()


def test_workers_do_not_change_the_batches(
    reward_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, chat_pairs: Dataset, tmp_path: Path
) -> None:
    def rows(workers: int) -> list[list[int]]:
        args = config(tmp_path, dataloader_num_workers=workers, per_device_train_batch_size=2)
        trainer = RewardTrainer(reward_model, args, train_dataset=chat_pairs, processing_class=tokenizer)
        torch.manual_seed(0)
        return [batch["input_ids"].flatten().tolist() for batch in trainer.get_train_dataloader()]

    assert rows(2) == rows(0)
