"""Six mistakes that other trainers make; each test would fail on the mistake."""

import copy
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hf_reward import ConfigurationError, DataError, RewardConfig, RewardScorer, RewardTrainer, run_training


def config(folder: Path, **settings) -> RewardConfig:
    return RewardConfig(
        output_dir=str(folder),
        use_cpu=True,
        report_to="none",
        gradient_checkpointing=False,
        save_strategy="no",
        **settings,
    )


def rows(prompts: list[str]) -> Dataset:
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": prompt}],
                "chosen": [{"role": "assistant", "content": f"A good answer to {prompt}"}],
                "rejected": [{"role": "assistant", "content": "A bad one."}],
            }
            for prompt in prompts
        ]
    )


@pytest.mark.parametrize("task_type", [None, "CAUSAL_LM", "SEQ_CLS"])
def test_trap_1_the_score_head_trains_under_lora(
    task_type: str | None,
    reward_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    chat_pairs: Dataset,
    tmp_path,
) -> None:
    before = reward_model.score.weight.detach().clone()
    trainer = RewardTrainer(
        reward_model,
        config(tmp_path, max_steps=2, learning_rate=1e-2),
        train_dataset=chat_pairs,
        processing_class=tokenizer,
        peft_config=LoraConfig(r=4, task_type=task_type),
    )
    head = trainer.model.get_base_model().score.modules_to_save["default"]
    assert head.weight.requires_grad
    assert head.weight.dtype == torch.float32
    trainer.train()
    assert (head.weight - before).abs().max() > 1e-3
    trainer.save_model()
    rewards = RewardScorer(trainer.model, tokenizer).score(["one text", "another"])
    base = copy.deepcopy(reward_model)
    reloaded = PeftModel.from_pretrained(trainer.model.unload(), tmp_path)
    assert RewardScorer(reloaded, tokenizer).score(["one text", "another"]) == pytest.approx(rewards, abs=1e-6)
    assert base is not None


def test_trap_1_a_frozen_head_is_refused(
    reward_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, chat_pairs: Dataset, tmp_path
) -> None:
    from peft import get_peft_model

    frozen = get_peft_model(reward_model, LoraConfig(r=4, target_modules=["q_proj"]))
    with pytest.raises(ConfigurationError, match="score head does not train"):
        RewardTrainer(frozen, config(tmp_path), train_dataset=chat_pairs, processing_class=tokenizer)


def test_trap_2_eos_is_scored_when_pad_was_eos(
    reward_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, chat_pairs: Dataset, tmp_path
) -> None:
    tokenizer.pad_token = tokenizer.eos_token
    trainer = RewardTrainer(reward_model, config(tmp_path), train_dataset=chat_pairs, processing_class=tokenizer)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(3)])
    read = batch["input_ids"].flatten()[batch["reward_positions"]]
    assert read.tolist() == [tokenizer.eos_token_id] * 6
    # The closing token changes the reward, so it is really the one that is read.
    scorer = RewardScorer(reward_model, tokenizer)
    closed = tokenizer("some words")["input_ids"] + [tokenizer.eos_token_id]
    with_eos, without = scorer.score_ids([closed, closed[:-1]]).tolist()
    assert abs(with_eos - without) > 1e-3
    # And plain transformers reads the same token from the saved checkpoint.
    with torch.no_grad():
        plain = reward_model(input_ids=torch.tensor([closed])).logits[0, 0].item()
    assert plain == pytest.approx(with_eos, abs=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 4, 8])
def test_trap_3_metrics_do_not_depend_on_the_batch_size(
    batch_size: int, reward_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, chat_pairs: Dataset, tmp_path
) -> None:
    # (That they do not depend on the number of processes either stands in tests/distributed.)
    seen = {}

    def compute_metrics(prediction):
        seen["rewards"] = prediction.predictions
        return {"mine": 1.0}

    trainer = RewardTrainer(
        reward_model,
        config(tmp_path, per_device_eval_batch_size=batch_size),
        eval_dataset=chat_pairs,
        processing_class=tokenizer,
        compute_metrics=compute_metrics,
    )
    metrics = trainer.evaluate()
    scorer = RewardScorer(reward_model, tokenizer)
    truth = torch.tensor(
        [scorer.score([row["prompt"] + row["chosen"], row["prompt"] + row["rejected"]]) for row in chat_pairs],
        dtype=torch.float64,
    )
    difference = truth[:, 0] - truth[:, 1]
    assert metrics["eval_accuracy"] == pytest.approx((difference > 0).double().mean().item())
    assert metrics["eval_reward_margin"] == pytest.approx(difference.mean().item(), abs=1e-6)
    assert metrics["eval_loss"] == pytest.approx(torch.nn.functional.softplus(-difference).mean().item(), abs=1e-6)
    assert metrics["eval_reward_std"] == pytest.approx(truth.std(unbiased=False).item(), abs=1e-6)
    assert metrics["eval_pairs"] == 7
    assert metrics["eval_mine"] == 1.0
    assert seen["rewards"].shape == (7, 2)
    torch.testing.assert_close(torch.tensor(seen["rewards"]).double(), truth, rtol=0, atol=1e-5)


def test_trap_4_a_prompt_in_both_splits_is_refused(causal_folder: Path, tmp_path: Path) -> None:
    rows(["one", "two", "three"]).to_json(tmp_path / "train.jsonl")
    rows(["three", "four"]).to_json(tmp_path / "test.jsonl")
    settings = {
        "model_name_or_path": str(causal_folder),
        "dataset_name": str(tmp_path / "train.jsonl"),
        "eval_dataset_name": str(tmp_path / "test.jsonl"),
        "output_dir": str(tmp_path / "out"),
        "dry_run": True,
    }
    with pytest.raises(DataError, match="1 of 3 training rows have a prompt that stands in the evaluation data"):
        run_training(**settings)
    report = run_training(**settings, eval_overlap="drop").data_report
    assert report["train"]["dropped"] == {"prompt_in_evaluation": 1}
    assert report["overlapping_prompts"] == 1


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_trap_5_a_linear_schedule_ends_at_zero(
    epochs: int, reward_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, chat_pairs: Dataset, tmp_path
) -> None:
    trainer = RewardTrainer(
        reward_model,
        config(tmp_path, num_train_epochs=epochs, per_device_train_batch_size=1, gradient_accumulation_steps=2),
        train_dataset=chat_pairs,
        processing_class=tokenizer,
    )
    trainer.train()
    assert trainer.state.max_steps == 4 * epochs  # seven rows in windows of two
    assert set(trainer.lr_scheduler.get_last_lr()) == {0.0}


def test_trap_6_without_evaluation_data_nothing_is_evaluated(causal_folder: Path, tmp_path: Path) -> None:
    rows([f"question {number}" for number in range(8)]).to_json(tmp_path / "train.jsonl")
    settings = {
        "model_name_or_path": str(causal_folder),
        "dataset_name": str(tmp_path / "train.jsonl"),
        "max_steps": 1,
        "gradient_checkpointing": False,
        "save_strategy": "no",
    }
    result = run_training(**settings, output_dir=str(tmp_path / "out"))
    assert result.eval_metrics == {}
    assert result.data_report["train"]["kept"] == 8
    assert "eval" not in result.data_report
    assert not (tmp_path / "out" / "eval_results.json").exists()
    with pytest.raises(ConfigurationError, match="no evaluation data"):
        run_training(**settings, output_dir=str(tmp_path / "other"), eval_strategy="steps")
    assert not (tmp_path / "other").exists()
