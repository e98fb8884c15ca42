"""RewardTrainer as a drop-in: the datasets, collators and hooks that TRL's trainer takes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hf_reward import ConfigurationError, DataError, RewardConfig, RewardTrainer


@pytest.fixture
def args(tmp_path: Path) -> RewardConfig:
    return RewardConfig(
        output_dir=str(tmp_path / "out"),
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        max_steps=1,
        per_device_eval_batch_size=4,
        gradient_checkpointing=False,
    )


def forms(chat_pairs: Dataset) -> dict[str, list[dict]]:
    text = [
        {
            "prompt": r["prompt"][0]["content"],
            "chosen": r["chosen"][0]["content"],
            "rejected": r["rejected"][0]["content"],
        }
        for r in chat_pairs
    ]
    return {
        "explicit chat": list(chat_pairs),
        "implicit chat": [{s: r["prompt"] + r[s] for s in ("chosen", "rejected")} for r in chat_pairs],
        "explicit text": text,
        "implicit text": [{s: r["prompt"] + r[s] for s in ("chosen", "rejected")} for r in text],
    }


@pytest.mark.parametrize("form", ["explicit chat", "implicit chat", "explicit text", "implicit text"])
def test_every_form_of_pairs_trains_and_the_spellings_agree(
    form: str,
    reward_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    chat_pairs: Dataset,
    args: RewardConfig,
) -> None:
    rows = forms(chat_pairs)
    trainer = RewardTrainer(
        reward_model, args, train_dataset=Dataset.from_list(rows[form]), processing_class=tokenizer
    )
    twin = form.replace("implicit", "explicit")
    other = RewardTrainer(reward_model, args, train_dataset=Dataset.from_list(rows[twin]), processing_class=tokenizer)
    for side in ("chosen_input_ids", "rejected_input_ids"):
        assert trainer.train_dataset[side][:] == other.train_dataset[side][:]
        assert all(ids[-1] == tokenizer.eos_token_id for ids in trainer.train_dataset[side])
        assert all(ids.count(tokenizer.eos_token_id) == 1 for ids in trainer.train_dataset[side])
    trainer.train()
    assert trainer.state.global_step == 1


def test_trls_tokenised_columns_are_taken(
    reward_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, args: RewardConfig
) -> None:
    rows = [{"chosen_ids": [5, 6, 7, 2], "rejected_ids": [5, 8, 2]}, {"chosen_ids": [5, 2], "rejected_ids": [9, 2]}]
    trainer = RewardTrainer(reward_model, args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    assert trainer.train_dataset["chosen_input_ids"][:] == [[5, 6, 7, 2], [5, 2]]
    assert trainer.train_dataset["prompt_length"][:] == [1, 0]


def test_too_long_empty_and_identical_pairs_are_dropped_and_said(
    reward_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    args: RewardConfig,
    caplog: pytest.LogCaptureFixture,
) -> None:
    args.max_length = 10
    rows = [
        {"prompt": "ab", "chosen": "cd", "rejected": "ef"},
        {"prompt": "ab", "chosen": "cd", "rejected": "cd"},
        {"prompt": "ab", "chosen": " ", "rejected": "cd"},
        {"prompt": "ab", "chosen": "c" * 20, "rejected": "cd"},
        {"prompt": "ab", "chosen": "c" * 7, "rejected": "cd"},  # with EOS ten tokens: kept
    ]
    trainer = RewardTrainer(reward_model, args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    assert len(trainer.train_dataset) == 2
    assert "3 of 5 pairs dropped" in caplog.text
    for reason in ("identical", "empty", "too_long"):
        assert f"{reason}: 1" in caplog.text
    args.max_length = 2
    with pytest.raises(DataError, match="0 of 5 pairs are left"):
        RewardTrainer(reward_model, args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)


def test_several_named_evaluation_sets(
    reward_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, chat_pairs: Dataset, args: RewardConfig
) -> None:
    sets = DatasetDict({"one": chat_pairs.select(range(3)), "two": chat_pairs.select(range(3, 7))})
    trainer = RewardTrainer(reward_model, args, eval_dataset=sets, processing_class=tokenizer)
    metrics = trainer.evaluate()
    assert (metrics["eval_one_pairs"], metrics["eval_two_pairs"]) == (3, 4)
    whole = trainer.evaluate(chat_pairs)
    expected = (3 * metrics["eval_one_loss"] + 4 * metrics["eval_two_loss"]) / 7
    assert whole["eval_loss"] == pytest.approx(expected, abs=1e-6)


def test_hooks_get_rewards_in_dataset_order(
    reward_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, chat_pairs: Dataset, args: RewardConfig
) -> None:
    seen: dict[str, np.ndarray] = {}

    def compute_metrics(prediction):
        seen["predictions"], seen["labels"] = prediction.predictions, prediction.label_ids
        return {"best": float((prediction.predictions[:, 0] > prediction.predictions[:, 1]).mean())}

    trainer = RewardTrainer(
        reward_model,
        args,
        eval_dataset=chat_pairs,
        processing_class=tokenizer,
        compute_metrics=compute_metrics,
        preprocess_logits_for_metrics=lambda rewards, labels: rewards * 2,
    )
    metrics = trainer.evaluate()
    plain = RewardTrainer(reward_model, args, eval_dataset=chat_pairs, processing_class=tokenizer).predict(chat_pairs)
    assert seen["predictions"].shape == (7, 2)
    np.testing.assert_allclose(seen["predictions"], plain.predictions * 2, atol=1e-5)
    assert seen["labels"].tolist() == [0] * 7
    assert metrics["eval_best"] == metrics["eval_accuracy"]  # the exact metrics see the rewards as they are


def test_trls_collator_and_batches_without_positions_are_read_as_trl_means_them(
    reward_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, chat_pairs: Dataset, args: RewardConfig
) -> None:
    args.batch_layout = "padded"
    trainer = RewardTrainer(reward_model, args, train_dataset=chat_pairs, processing_class=tokenizer)
    ours = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    theirs = {name: ours[name] for name in ("input_ids", "attention_mask")}
    with trainer.reward_forward():
        one, first = trainer.compute_loss(trainer.model, ours, return_outputs=True)
        two, second = trainer.compute_loss(trainer.model, theirs, return_outputs=True)
    torch.testing.assert_close(one, two)
    torch.testing.assert_close(first.rewards, second.rewards)


def test_the_users_model_is_left_with_its_own_forward(
    reward_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, chat_pairs: Dataset, args: RewardConfig
) -> None:
    before = reward_model.forward
    trainer = RewardTrainer(
        reward_model, args, train_dataset=chat_pairs, eval_dataset=chat_pairs, processing_class=tokenizer
    )
    assert reward_model.forward == before
    trainer.train()
    assert reward_model.forward == before
    first = trainer.evaluate()
    assert reward_model.forward == before
    assert trainer.evaluate()["eval_loss"] == first["eval_loss"]


def test_what_cannot_be_trained_is_refused(
    reward_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, args: RewardConfig
) -> None:
    with pytest.raises(ConfigurationError, match="The train dataset is a list"):
        RewardTrainer(reward_model, args, train_dataset=[{"chosen": "a"}], processing_class=tokenizer)
    with pytest.raises(DataError, match="no column `rejected`"):
        RewardTrainer(
            reward_model,
            args,
            train_dataset=Dataset.from_list([{"chosen": "a", "x": "b"}]),
            processing_class=tokenizer,
        )
    reward_model.score.weight.requires_grad_(False)
    with pytest.raises(ConfigurationError, match="score head does not train"):
        RewardTrainer(reward_model, args, processing_class=tokenizer)


def test_two_runs_with_the_same_seed_are_equal_bit_for_bit(
    causal_folder: Path, chat_pairs: Dataset, tmp_path: Path
) -> None:
    def losses() -> list[float]:
        config = RewardConfig(
            output_dir=str(tmp_path), use_cpu=True, report_to="none", save_strategy="no", max_steps=4, logging_steps=1,
            per_device_train_batch_size=2, learning_rate=1e-3, seed=11,
        )  # fmt: skip
        trainer = RewardTrainer(str(causal_folder), config, train_dataset=chat_pairs)
        trainer.train()
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    first = losses()
    assert len(set(first)) == 4
    assert losses() == first
