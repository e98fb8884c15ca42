"""The loss is one weighted mean over the global batch, however it is split into micro-batches."""

import copy

import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hf_reward import RewardConfig, RewardTrainer


def train(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, data: Dataset, folder, **settings):
    """Losses of all steps, the first gradients, and the final weights of a short run."""
    config = RewardConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        learning_rate=1e-3,
        gradient_checkpointing=False,
        train_sampling_strategy="sequential",
        max_grad_norm=0.0,
        lr_scheduler_type="constant",
        **settings,
    )
    first: dict[str, torch.Tensor] = {}

    class Spy(RewardTrainer):
        def create_optimizer(self, *args, **kwargs):
            optimizer = super().create_optimizer(*args, **kwargs)
            step = optimizer.step

            def spying(*args, **kwargs):
                if not first:
                    first.update({n: p.grad.clone() for n, p in self.model.named_parameters()})
                return step(*args, **kwargs)

            optimizer.step = spying
            return optimizer

    trainer = Spy(copy.deepcopy(model), config, train_dataset=data, processing_class=copy.deepcopy(tokenizer))
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses, first, trainer.model.state_dict(), trainer


def in_groups(chat_pairs: Dataset) -> Dataset:
    """Ranked groups of two, three and four completions."""
    sides = [row["chosen"] for row in chat_pairs] + [row["rejected"] for row in chat_pairs]
    rows = [
        {"prompt": row["prompt"], "completions": sides[number : number + 2 + number % 3]}
        for number, row in enumerate(chat_pairs)
    ]
    return Dataset.from_list(rows)


@pytest.mark.parametrize("kind", ["pairs", "weighted pairs", "weighted groups"])
def test_accumulation_does_not_change_losses_gradients_or_weights(
    kind: str, reward_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, chat_pairs: Dataset, tmp_path
) -> None:
    # Seven rows in batches of four: the second window holds three rows, so its micro-batches are uneven.
    if kind == "weighted groups":
        chat_pairs = in_groups(chat_pairs)
    if kind != "pairs":
        chat_pairs = chat_pairs.add_column("weight", [1.0, 0.5, 3.0, 1.0, 0.25, 2.0, 1.0])
    together = train(reward_model, tokenizer, chat_pairs, tmp_path, per_device_train_batch_size=4, num_train_epochs=3)
    for size, steps in ((1, 4), (2, 2)):
        split = train(
            reward_model,
            tokenizer,
            chat_pairs,
            tmp_path,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            num_train_epochs=3,
        )
        assert len(together[0]) == 6
        assert split[0] == pytest.approx(together[0], abs=2e-5)
        for name, gradient in together[1].items():
            assert (split[1][name] - gradient).norm() <= 1e-5 * gradient.norm().clamp_min(1e-8), name
        for name, weight in together[2].items():
            torch.testing.assert_close(split[2][name], weight, rtol=0, atol=1e-4)


def test_weights_are_weights(
    reward_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, chat_pairs: Dataset, tmp_path
) -> None:
    # A pair of weight 2 is a pair that stands in the data twice.
    twice = Dataset.from_list([chat_pairs[0], chat_pairs[0], chat_pairs[1]])
    weighted = chat_pairs.select([0, 1]).add_column("weight", [2.0, 1.0])
    settings = {"per_device_train_batch_size": 4, "max_steps": 1}
    one, gradients, _, _ = train(reward_model, tokenizer, twice, tmp_path, **settings)
    two, others, _, _ = train(reward_model, tokenizer, weighted, tmp_path, **settings)
    assert two == pytest.approx(one, abs=1e-6)
    for name, gradient in gradients.items():
        assert (others[name] - gradient).norm() <= 1e-5 * gradient.norm().clamp_min(1e-8), name


def test_the_logged_metrics_are_those_of_the_pairs_trained_on(
    reward_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, chat_pairs: Dataset, tmp_path
) -> None:
    _, _, _, trainer = train(
        reward_model,
        tokenizer,
        chat_pairs,
        tmp_path,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
        num_train_epochs=1,
    )
    entry = next(entry for entry in trainer.state.log_history if "loss" in entry)
    before = RewardTrainer(
        copy.deepcopy(reward_model),
        RewardConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none"),
        eval_dataset=chat_pairs,
        processing_class=copy.deepcopy(tokenizer),
    ).evaluate()
    for name in ("loss", "accuracy", "tie_rate", "reward_margin", "chosen_reward", "rejected_reward", "reward_std"):
        assert entry[name] == pytest.approx(before[f"eval_{name}"], abs=1e-5), name
    assert entry["num_pairs"] == 7
    assert entry["num_tokens"] == sum(
        len(row[f"{s}_input_ids"]) for row in trainer.train_dataset for s in ("chosen", "rejected")
    )
