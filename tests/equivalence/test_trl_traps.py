"""Where TRL's RewardTrainer is wrong, ours is right: the traps that no other file of tests holds."""

import copy
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerFast

from hf_reward import DataError, RewardConfig, RewardScorer, RewardTrainer
from hf_reward.modeling.adapters import head_parameters
from hf_reward.modeling.score_head import bind_reward_forward
from hf_reward.training.objective import MODEL_INPUTS


def config(folder: Path, **settings) -> RewardConfig:
    values = {
        "output_dir": str(folder),
        "use_cpu": True,
        "report_to": "none",
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "per_device_train_batch_size": 2,
    }
    return RewardConfig(**(values | settings))


def text_pairs(chosen: list[str], rejected: list[str]) -> Dataset:
    return Dataset.from_dict({"chosen": chosen, "rejected": rejected})


@pytest.mark.parametrize("layout", ["padded", "packed", "shared_prompt"])
def test_t4_a_micro_step_neither_synchronises_nor_talks_to_other_processes(
    layout: str,
    reward_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    chat_pairs: Dataset,
    tmp_path,
    monkeypatch,
) -> None:
    trainer = RewardTrainer(
        reward_model, config(tmp_path, batch_layout=layout), train_dataset=chat_pairs, processing_class=tokenizer
    )
    assert trainer.choice.layout == layout
    batch = next(iter(trainer.get_train_dataloader()))
    calls = []
    for kind, names in (
        (torch.Tensor, ("item", "tolist", "__bool__", "__float__", "__int__", "cpu", "numpy")),
        (type(trainer.accelerator), ("gather", "gather_for_metrics", "reduce", "wait_for_everyone")),
    ):
        for name in names:
            kept = getattr(kind, name)

            def spy(*args, _kept=kept, _name=name, **kwargs):
                calls.append(_name)
                return _kept(*args, **kwargs)

            monkeypatch.setattr(kind, name, spy)
    reward_model.train()
    with trainer.reward_forward():
        # The model itself (its mask, in transformers) may look at the device; what we add to it must not.
        reward_model(**{name: batch[name] for name in (*MODEL_INPUTS, "reward_positions") if name in batch})
        of_the_model = len(calls)
        trainer.compute_loss(reward_model, batch).backward()
    assert calls[of_the_model:] == calls[:of_the_model]
    assert trainer._training_sums.compute()["pairs"] == 2


def test_t5_a_closing_token_that_is_also_the_pad_token_is_scored(
    reward_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, chat_pairs: Dataset, tmp_path
) -> None:
    tokenizer.pad_token = tokenizer.eos_token
    trainer = RewardTrainer(
        reward_model, config(tmp_path, max_steps=1), train_dataset=chat_pairs, processing_class=tokenizer
    )
    trainer.train()
    trainer.save_model()
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    closed = [*tokenizer("some words", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    with torch.no_grad():
        padded = torch.tensor([[*closed, plain.config.pad_token_id]])
        rewards = [plain(torch.tensor([ids])).logits.item() for ids in (closed, closed[:-1])]
        assert plain(padded).logits.item() == pytest.approx(rewards[0], abs=1e-6)
    assert abs(rewards[0] - rewards[1]) > 1e-3
    ours = RewardScorer.from_pretrained(tmp_path, device="cpu").score_ids([closed, closed[:-1]]).tolist()
    assert ours == pytest.approx(rewards, abs=1e-6)


def test_t6_another_chat_template_saves_the_head_with_the_adapter_and_no_lm_head(
    reward_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, chat_pairs: Dataset, tmp_path
) -> None:
    from safetensors.torch import load_file

    trainer = RewardTrainer(
        reward_model,
        config(tmp_path, max_steps=1, chat_template_path="chatml"),
        train_dataset=chat_pairs,
        processing_class=tokenizer,
        peft_config=LoraConfig(r=2, task_type="SEQ_CLS", modules_to_save=["lm_head"]),
    )
    trainer.train()
    trainer.save_model()
    names = set(load_file(tmp_path / "adapter_model.safetensors"))
    assert "base_model.model.score.weight" in names
    assert not {name for name in names if "lm_head" in name}
    assert "lm_head" not in (tmp_path / "adapter_config.json").read_text()


def test_t8_tiny_updates_of_the_head_are_not_rounded_away(
    reward_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, chat_pairs: Dataset, tmp_path
) -> None:
    # At a learning rate of 1e-6 Adam moves a weight by 1e-6; around 0.2 the spacing of bfloat16 is 1e-3.
    trainer = RewardTrainer(
        reward_model.to(torch.bfloat16),
        config(tmp_path, max_steps=1, learning_rate=1e-6, lr_scheduler_type="constant"),
        train_dataset=chat_pairs,
        processing_class=tokenizer,
        peft_config=LoraConfig(r=2),
    )
    before = {name: weight.detach().clone() for name, weight in head_parameters(trainer.model).items()}
    trainer.train()
    for name, weight in head_parameters(trainer.model).items():
        assert weight.dtype == torch.float32
        moved = (weight - before[name]).abs()
        assert (moved > 5e-7).float().mean() > 0.9
        assert moved.max() < 2e-6


def test_t9_rewards_that_differ_by_less_than_bfloat16_can_say_stay_different(reward_model: PreTrainedModel) -> None:
    # Around 16 two neighbours in bfloat16 are 1/8 apart.
    model = reward_model.eval()
    hidden = torch.zeros(2, 1, 32)
    hidden[:, :, 0] = 1.0
    hidden[1, :, 1] = 1.0
    with torch.no_grad():
        model.score.weight.zero_()
        model.score.weight[0, :2] = torch.tensor([16.0, 0.01])
    model.model.forward = lambda **kwargs: type("Output", (), {"last_hidden_state": hidden.bfloat16()})()
    bind_reward_forward(model)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rewards = model(input_ids=torch.ones(2, 1).long(), reward_positions=torch.tensor([0, 1])).logits
    assert (rewards[1] - rewards[0]).item() == pytest.approx(0.01, rel=1e-3)


def test_t10_what_is_dropped_is_counted_by_reason_and_nothing_left_is_an_error(
    reward_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tmp_path, caplog
) -> None:
    data = text_pairs(["short", "same", "x" * 40, "good"], ["brief", "same", "y", "bad"])
    trainer = RewardTrainer(
        reward_model, config(tmp_path, max_length=20), train_dataset=data, processing_class=tokenizer
    )
    assert len(trainer.train_dataset) == 2
    assert "2 of 4 pairs dropped" in caplog.text
    assert "identical: 1" in caplog.text
    assert "too_long: 1" in caplog.text
    with pytest.raises(DataError, match=r"max_length"):
        RewardTrainer(
            reward_model,
            config(tmp_path, max_length=3),
            train_dataset=data.select([0, 3]),
            processing_class=tokenizer,
        )


def test_t11_text_and_messages_in_one_set_are_told_apart_row_by_row(
    reward_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tmp_path
) -> None:
    from hf_reward.data.formats import parse_row

    text = parse_row({"chosen": "yes", "rejected": "no"}, "row 1")
    messages = parse_row(
        {
            "chosen": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "yes"}],
            "rejected": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "no"}],
        },
        "row 2",
    )
    assert (text.prompt, messages.prompt) == (None, [{"role": "user", "content": "?"}])
    with pytest.raises(DataError, match="row 3"):
        parse_row({"chosen": [{"role": "assistant", "content": "yes"}], "rejected": "no"}, "row 3")


def test_t12_a_tokenizer_without_a_closing_token_works(chat_pairs: Dataset, tmp_path) -> None:
    words = {name: index for index, name in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "answer"])}
    backend = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")
    assert tokenizer.eos_token is None
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = AutoModelForSequenceClassification.from_config(
        AutoConfig.for_model("bert", vocab_size=8, num_labels=1, **sizes)
    )
    data = text_pairs(["good answer", "good good"], ["bad answer", "bad"])
    trainer = RewardTrainer(model, config(tmp_path, max_steps=1), train_dataset=data, processing_class=tokenizer)
    assert trainer.train_dataset[0]["chosen_input_ids"] == [4, 6]
    trainer.train()
    trainer.save_model()
    scorer = RewardScorer.from_pretrained(tmp_path, device="cpu")
    with trainer.reward_forward():
        ours = RewardScorer(trainer.model, tokenizer).score(["good answer", "bad"])
    assert scorer.score(["good answer", "bad"]) == pytest.approx(ours, abs=1e-6)


def test_t13_the_token_count_goes_on_after_a_resume(
    reward_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, chat_pairs: Dataset, tmp_path
) -> None:
    def trainer(folder: str, steps: int) -> RewardTrainer:
        return RewardTrainer(
            copy.deepcopy(reward_model),
            config(tmp_path / folder, max_steps=steps, save_strategy="steps", save_steps=3, logging_steps=2),
            train_dataset=chat_pairs,
            processing_class=copy.deepcopy(tokenizer),
        )

    whole = trainer("whole", 6)
    whole.train()
    trainer("parts", 3).train()
    resumed = trainer("parts", 6)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.counters.num_tokens == whole.counters.num_tokens > 0
    assert resumed.counters.num_pairs == whole.counters.num_pairs == 11  # 7 in the first epoch, 4 in the second


def test_t18_rows_are_grouped_by_their_length(
    reward_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tmp_path
) -> None:
    data = text_pairs(["a" * (3 if row % 2 else 90) for row in range(64)], ["b"] * 64)
    widths = {}
    for strategy in ("group_by_length", "random"):
        trainer = RewardTrainer(
            reward_model,
            config(tmp_path, train_sampling_strategy=strategy, per_device_train_batch_size=4, batch_layout="padded"),
            train_dataset=data,
            processing_class=tokenizer,
        )
        widths[strategy] = [batch["input_ids"].shape[1] for batch in trainer.get_train_dataloader()]
    assert trainer.train_dataset["length"][:2] == [91, 4]
    # Half of the rows are short: grouped, nearly half of the batches are, at random one in sixteen.
    assert widths["group_by_length"].count(4) >= 6
    assert widths["random"].count(4) <= 2
