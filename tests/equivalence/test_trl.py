"""The loss and every gradient equal TRL's on the same weights and the same batch."""

import copy

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, GPT2Config, PreTrainedModel, PreTrainedTokenizerFast
from trl import RewardConfig as TrlConfig
from trl import RewardTrainer as TrlTrainer

from hf_reward import RewardConfig, RewardTrainer


def step(trainer, dtype):
    trainer.model.to(dtype)
    trainer.model.train()
    batch = next(iter(trainer.get_eval_dataloader(trainer.train_dataset)))
    loss = trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch))
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}


OPTIONS = {
    "plain": {},
    "margin": {},
    "centred": {"center_rewards_coefficient": 0.01},
}


def gpt2() -> PreTrainedModel:
    """A model whose norms keep float64 (Llama's go through float32, so 1e-10 is out of its reach)."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=262, n_embd=32, n_layer=2, n_head=4, n_positions=128, num_labels=1, pad_token_id=0)
    return AutoModelForSequenceClassification.from_config(config)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize(
    ("model", "dtype", "tolerance"),
    [("gpt2", torch.float64, 1e-10), ("llama", torch.float64, 1e-6), ("llama", torch.float32, 1e-5)],
)
def test_loss_and_gradients_equal_trl(
    option: str,
    model: str,
    dtype: torch.dtype,
    tolerance: float,
    reward_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    chat_pairs: Dataset,
    tmp_path,
) -> None:
    reward_model = gpt2() if model == "gpt2" else reward_model
    if option == "margin":
        chat_pairs = chat_pairs.add_column("margin", [0.1 * i for i in range(len(chat_pairs))])
    common = {
        "output_dir": str(tmp_path),
        "bf16": False,
        "use_cpu": True,
        "per_device_eval_batch_size": 7,
        "gradient_checkpointing": False,
        "report_to": "none",
        **OPTIONS[option],
    }
    theirs = TrlTrainer(
        copy.deepcopy(reward_model),
        TrlConfig(**common),
        train_dataset=chat_pairs,
        eval_dataset=chat_pairs,
        processing_class=copy.deepcopy(tokenizer),
    )
    ours = RewardTrainer(
        copy.deepcopy(reward_model),
        RewardConfig(**common),
        train_dataset=chat_pairs,
        eval_dataset=chat_pairs,
        processing_class=copy.deepcopy(tokenizer),
    )
    their_loss, their_gradients = step(theirs, dtype)
    with ours.reward_forward():
        our_loss, our_gradients = step(ours, dtype)
    assert our_gradients.keys() == their_gradients.keys()
    assert their_loss.item() != pytest.approx(0.6931, abs=1e-3)
    torch.testing.assert_close(our_loss, their_loss, rtol=tolerance, atol=0)
    for name, theirs_ in their_gradients.items():
        # (A bias behind everything cancels in a difference of rewards: its gradient is 0 up to rounding.)
        assert (our_gradients[name] - theirs_).norm() <= tolerance * theirs_.norm() + 1e-15, name
