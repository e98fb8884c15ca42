"""Which layout a run gets, why, and that it is not trusted before it was seen to be right."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PromptTuningConfig, TaskType, get_peft_model
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from hf_reward import ConfigurationError, RewardConfig, RewardTrainer
from hf_reward.errors import RunError
from hf_reward.modeling import shared_prompt
from hf_reward.modeling.layout import choose_layout, only_padded, spared_by_sharing
from tests.equivalence.test_layouts import SIZES, group
from tests.unit.modeling.test_architectures import build


def config(folder: Path, **changes: Any) -> RewardConfig:
    values = {"output_dir": str(folder), "use_cpu": True, "report_to": "none", "save_strategy": "no", "max_steps": 1}
    return RewardConfig(**(values | changes))


def rows(*shapes: tuple[int, int, int]) -> Dataset:
    return Dataset.from_list(
        [
            {
                **dict(zip(("chosen_input_ids", "rejected_input_ids"), pair["completion_input_ids"], strict=True)),
                "prompt_length": shape[0],
                "length": shape[0] + max(shape[1:]),
                "prompt_key": number,
            }
            for number, shape in enumerate(shapes)
            for pair in [group(*shape, seed=number)]
        ]
    )


SHARING, NOT_SHARING = [(20, 5, 5)] * 4, [(1, 20, 20)] * 4


def llama(**changes: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(AutoConfig.for_model("llama", **(SIZES | changes)))


def trained(model: PreTrainedModel, data: Dataset, tokenizer: Any, folder: Path, **changes: Any) -> RewardTrainer:
    trainer = RewardTrainer(model, config(folder, **changes), train_dataset=data, processing_class=tokenizer)
    trainer.train()
    return trainer


def test_tokens_spared_by_hand() -> None:
    assert spared_by_sharing(rows(*SHARING)) == pytest.approx(20 / 50)
    assert spared_by_sharing(rows(*NOT_SHARING)) == pytest.approx(1 / 42)
    assert spared_by_sharing([]) == 0


@pytest.mark.parametrize(("shapes", "layout"), [(SHARING, "shared_prompt"), (NOT_SHARING, "packed")])
def test_auto_shares_prompts_where_that_is_worth_it_and_says_why(
    shapes: list, layout: str, tokenizer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "hf_reward"):
        trainer = trained(llama(), rows(*shapes), tokenizer, tmp_path)
    assert trainer.choice.layout == trainer.data_collator.layout == layout
    (line,) = [record.getMessage() for record in caplog.records if "batch layout" in record.getMessage()]
    spared = {"shared_prompt": "sharing prompts spares 40.0%", "packed": "sharing prompts would spare only 2.4%"}[
        layout
    ]
    assert line.startswith(
        f"batch layout: {layout} ({spared} of the tokens; rewards differ from the padded ones by at"
    )
    assert trainer.args.gradient_checkpointing is False


def test_padded_rows_keep_checkpointing_and_are_grouped_by_length(tokenizer, tmp_path: Path) -> None:
    encoder = build("bert")
    trainer = RewardTrainer(encoder, config(tmp_path), train_dataset=rows(*SHARING), processing_class=tokenizer)
    assert trainer.choice.layout == "padded"
    assert trainer.args.gradient_checkpointing is True
    assert type(trainer._get_train_sampler()).__name__ == "LengthGroupedSampler"
    asked = RewardTrainer(
        llama(), config(tmp_path, batch_layout="padded"), train_dataset=rows(*SHARING), processing_class=tokenizer
    )
    assert type(asked._get_train_sampler()).__name__ == "RandomSampler"


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: build("bert"), "is an encoder"),
        (lambda: llama(attn_implementation="eager"), "the attention implementation is eager"),
        (lambda: build("gemma3_text"), None),
        (
            lambda: get_peft_model(llama(), PromptTuningConfig(TaskType.SEQ_CLS, num_virtual_tokens=2)),
            "learned tokens",
        ),
        (lambda: get_peft_model(llama(), LoraConfig(task_type=TaskType.SEQ_CLS)), None),
    ],
    ids=["encoder", "eager", "gemma3", "prompt tuning", "lora"],
)
def test_what_the_structure_does_not_allow(model: Any, reason: str | None, tmp_path: Path) -> None:
    made = model()
    found = only_padded(made, config(tmp_path))
    assert found is None if reason is None else reason in found
    if reason is not None:
        assert choose_layout(config(tmp_path), made, rows(*SHARING)).layout == "padded"
        with pytest.raises(ConfigurationError, match=f"found shared_prompt, but .*{reason}.*expected padded, or auto"):
            choose_layout(config(tmp_path, batch_layout="shared_prompt"), made, rows(*SHARING))


def test_attention_dropout_that_is_on_leaves_rows_padded(tmp_path: Path) -> None:
    model = llama(attention_dropout=0.1)
    assert only_padded(model, config(tmp_path)) is None
    assert "attention dropout is on" in only_padded(model, config(tmp_path, disable_dropout=False))


def test_torch_compile_leaves_rows_padded_or_is_refused(tmp_path: Path) -> None:
    args = config(tmp_path, torch_compile=True)
    assert choose_layout(args, llama(), rows(*SHARING)).layout == "padded"
    args.batch_layout = "packed"
    with pytest.raises(ConfigurationError, match="found packed, but `torch_compile` is on"):
        choose_layout(args, llama(), rows(*SHARING))


def test_linear_attention_layers_leave_rows_padded(tmp_path: Path) -> None:
    model = llama()
    model.config.layer_types = ["linear_attention", "full_attention", "full_attention"]
    assert "layers of linear_attention" in only_padded(model, config(tmp_path))


def test_what_the_attention_refuses_makes_a_run_pad_its_rows(
    tokenizer, tmp_path: Path, caplog, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if a Llama handed something to its attention that is not known there.
    monkeypatch.setattr(shared_prompt, "_HARMLESS", frozenset())
    with caplog.at_level(logging.INFO, "hf_reward"):
        trainer = trained(llama(), rows(*SHARING), tokenizer, tmp_path)
    assert trainer.choice.layout == trainer.data_collator.layout == "padded"
    assert "not shared_prompt: LlamaAttention asks for" in caplog.text
    assert "batch layout: padded (LlamaAttention asks for" in caplog.text


def test_wrong_rewards_make_a_run_fall_back_layout_by_layout(
    tokenizer, tmp_path: Path, caplog, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = shared_prompt._attend

    def blind(query, key, value, plan, scaling, window):
        """Completions that do not see their prompt: what happens without the right keys."""
        if key.shape[2] > query.shape[2] and any(prompt for prompt, _ in plan.spans):
            key, value = key[:, :, -query.shape[2] :], value[:, :, -query.shape[2] :]
        return kept(query, key, value, plan, scaling, window)

    monkeypatch.setattr(shared_prompt, "_attend", blind)
    with caplog.at_level(logging.INFO, "hf_reward"):
        trainer = trained(llama(), rows(*SHARING), tokenizer, tmp_path)
    assert "batch layout: not shared_prompt: rewards would differ from the padded ones by" in caplog.text
    assert trainer.choice.layout == "packed"

    monkeypatch.setattr(
        shared_prompt, "_attend", lambda q, k, v, *rest: F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
    )
    trainer = trained(llama(), rows(*SHARING), tokenizer, tmp_path)
    assert trainer.choice.layout == trainer.data_collator.layout == "padded"
    assert trainer.model.config._attn_implementation == "sdpa"


def test_a_kernel_that_does_not_run_makes_a_run_pad_its_rows(
    tokenizer, tmp_path: Path, caplog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("no kernel image is available\nand more lines")

    monkeypatch.setattr(shared_prompt, "_attend", broken)
    trainer = trained(llama(), rows(*SHARING), tokenizer, tmp_path)
    assert (trainer.choice.layout, trainer.choice.reason) == ("padded", "no kernel image is available")

    def out_of_memory(*_: Any) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(shared_prompt, "_attend", out_of_memory)
    with pytest.raises(RunError, match="Out of memory"):
        trained(llama(), rows(*SHARING), tokenizer, tmp_path)


def test_torchs_variable_length_kernel_is_the_one_that_is_used() -> None:
    pytest.importorskip("torch", minversion="2.13", reason="older ones have it without windows or grouped heads")
    assert shared_prompt.variable_length_kernel() == "torch"


def test_an_unknown_window_that_no_pair_exceeds_is_not_trusted(
    tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_reward.modeling.layout.EXACT_WINDOWS", frozenset())
    torch.manual_seed(0)
    sizes = SIZES | {"max_position_embeddings": 512}
    for window, layout in ((8, "shared_prompt"), (400, "padded")):
        settings = AutoConfig.for_model("mistral", **sizes, sliding_window=window)
        model = AutoModelForSequenceClassification.from_config(settings)
        trainer = trained(model, rows(*SHARING), tokenizer, tmp_path)
        assert trainer.choice.layout == layout
    assert "a mistral has a sliding window of 400 tokens, which no pair exceeds (25 tokens)" in trainer.choice.reason


def test_half_precision_weights_are_compared_within_their_own_noise(tokenizer, tmp_path: Path) -> None:
    data = rows(*[(20 + number % 9, 5, 3 + number % 4) for number in range(40)])
    trainer = trained(llama().bfloat16(), data, tokenizer, tmp_path)
    assert trainer.choice.layout == "shared_prompt"


def test_the_users_model_attends_as_before_afterwards(tokenizer, tmp_path: Path) -> None:
    model = llama()
    trainer = trained(model, rows(*SHARING), tokenizer, tmp_path)
    assert trainer.choice.layout == "shared_prompt"
    assert model.config._attn_implementation == "sdpa"
    trainer.save_model(str(tmp_path / "saved"))
    assert "hf_reward" not in (tmp_path / "saved" / "config.json").read_text().replace("hf_reward_version", "")
    evaluated = [trainer.evaluate(rows(*SHARING))["eval_loss"] for _ in range(2)]
    assert evaluated[0] == evaluated[1]


def test_a_model_that_does_not_take_position_ids_gets_padded_rows(tokenizer, tmp_path: Path, caplog) -> None:
    torch.manual_seed(0)
    bloom = AutoModelForSequenceClassification.from_config(
        AutoConfig.for_model(
            "bloom", vocab_size=262, hidden_size=32, n_layer=2, n_head=4, num_labels=1, pad_token_id=0
        )
    )
    trainer = trained(bloom, rows(*SHARING), tokenizer, tmp_path)
    assert trainer.choice.layout == "padded"
