"""Evaluation while training: exact diagnostics, subsets, the sample table, the schedule, and suspicious numbers."""

import logging
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import PreTrainedModel, PreTrainedTokenizerFast, TrainerControl, TrainerState
from transformers.integrations import TrackioCallback, WandbCallback

from hf_reward import RewardConfig, RewardTrainer
from hf_reward.data.streams import EvenStream
from hf_reward.errors import ConfigurationError
from hf_reward.metrics import diagnostics
from hf_reward.training.callbacks import CHANCE_LOGS, SuspiciousNumbers
from hf_reward.training.samples import COLUMNS, SampleTable, markdown_table, read_pair, send_table
from hf_reward.training.setup import prepare_dataset


SUBSETS = ["math", "chat", "math", "", "chat", "chat", None]
SETTINGS = {
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
    "save_strategy": "no",
    "gradient_checkpointing": False,
}


@pytest.fixture
def make(reward_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, chat_pairs: Dataset, tmp_path: Path):
    """Make a trainer over the seven pairs, each with its subset."""

    def make(**settings: Any) -> RewardTrainer:
        config = RewardConfig(output_dir=str(tmp_path / "out"), **(SETTINGS | settings))
        prepared = prepare_dataset(chat_pairs, tokenizer, config, "eval").add_column("subset", SUBSETS)
        return RewardTrainer(
            reward_model, config, train_dataset=prepared, eval_dataset=prepared, processing_class=tokenizer
        )

    return make


@pytest.mark.parametrize("settings", [{}, {"train_sampling_strategy": "group_by_length"}])
def test_diagnostics_are_those_of_the_pairs_at_any_batch_size(make, settings: dict[str, Any]) -> None:
    results = []
    for size in (1, 3, 8):
        trainer = make(per_device_eval_batch_size=size, **settings)
        results.append(trainer.evaluate())
    data = trainer.eval_dataset
    rewards = trainer.predict(data).predictions
    # Each pair by itself: the rewards stand in the order of the data.
    alone = np.concatenate([trainer.predict(data.select([place])).predictions for place in range(len(data))])
    np.testing.assert_allclose(rewards, alone, atol=1e-5)
    lengths = [
        np.array([len(row[f"{side}_input_ids"]) - row["prompt_length"] for row in data], dtype=float)
        for side in ("chosen", "rejected")
    ]
    expected = diagnostics(*rewards.T.astype(float), *lengths, [name or "" for name in SUBSETS])
    assert expected["math_pairs"] == 2
    assert expected["chat_pairs"] == 3
    assert 0 < expected["pairs_chosen_shorter"] < 7
    for metrics in results:
        found = {key.removeprefix("eval_"): value for key, value in metrics.items()}
        assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-5)
        assert found["pairs"] == 7


def test_named_sets_have_their_own_diagnostics(make) -> None:
    trainer = make()
    both = {"first": trainer.eval_dataset.select(range(3)), "second": trainer.eval_dataset.select(range(3, 7))}
    metrics = trainer.evaluate(both)
    for name, part in both.items():
        alone = trainer.evaluate(part)
        for key in ("reward_margin_p50", "length_correlation", "chat_accuracy"):
            assert metrics[f"eval_{name}_{key}"] == pytest.approx(alone[f"eval_{key}"], abs=1e-6)


def test_a_subset_is_never_written_over_a_metric(make) -> None:
    trainer = make()
    collate = trainer.data_collator
    trainer.data_collator = lambda rows: collate(rows) | {"tie": torch.tensor([row["subset"] == "" for row in rows])}
    data = trainer.eval_dataset.remove_columns("subset").add_column("subset", ["undecided", *[""] * 6])
    metrics = trainer.evaluate(data)
    assert (metrics["eval_undecided_pairs"], metrics["eval_pairs"]) == (6, 1)
    assert "eval_undecided_accuracy" in metrics


def test_ties_of_the_data_are_in_no_accuracy(make) -> None:
    trainer = make()
    collate = trainer.data_collator

    def with_ties(rows: list[dict[str, Any]]) -> dict[str, Any]:
        return collate(rows) | {"tie": torch.tensor([row["subset"] == "chat" for row in rows])}

    trainer.data_collator = with_ties
    metrics = trainer.evaluate()
    assert (metrics["eval_pairs"], metrics["eval_undecided_pairs"]) == (4, 3)
    assert "eval_chat_accuracy" not in metrics
    counted = [place for place, name in enumerate(SUBSETS) if name != "chat"]
    trainer.data_collator = collate
    rest = trainer.evaluate(trainer.eval_dataset.select(counted))
    for key in ("accuracy", "reward_margin", "reward_std", "reward_margin_p5", "calibration_error"):
        assert metrics[f"eval_{key}"] == pytest.approx(rest[f"eval_{key}"], abs=1e-6), key


@pytest.mark.parametrize("loss_type", ["bradley_terry", "plackett_luce", "regression"])
def test_the_loss_of_an_evaluation_and_of_a_step_is_the_one_asked_for(make, loss_type: str) -> None:
    trainer = make(loss_type="bradley_terry", max_steps=1, per_device_train_batch_size=7, logging_steps=1)
    trainer.args.loss_type = loss_type
    trainer.train_dataset = trainer.eval_dataset = trainer.train_dataset.add_column("scores", [[2.0, -1.0]] * 7)
    collate = trainer.data_collator

    def with_scores(rows: list[dict[str, Any]]) -> dict[str, Any]:
        return collate(rows) | {"scores": torch.tensor([[2.0, -1.0] for _ in rows]).flatten()}

    trainer.data_collator = with_scores
    chosen, rejected = torch.from_numpy(trainer.predict(trainer.train_dataset).predictions).T
    expected = (
        ((chosen - 2) ** 2 + (rejected + 1) ** 2) / 2
        if loss_type == "regression"
        else torch.nn.functional.softplus(rejected - chosen)
    ).mean()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert trainer.train().training_loss == pytest.approx(expected.item(), rel=1e-5)


def test_a_loss_that_does_not_fit_the_data_is_refused_at_the_start(make) -> None:
    with pytest.raises(ConfigurationError, match="`loss_type: regression` needs a `scores` column"):
        make(loss_type="regression")


# ---- the sample table -----------------------------------------------------------------------------------------------


def test_the_table_shows_worst_best_and_random_pairs(make, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    trainer = make(eval_sample_pairs=1)
    rewards = trainer.predict(trainer.eval_dataset).predictions
    capsys.readouterr()
    trainer.evaluate()
    shown = capsys.readouterr().out
    margins = rewards[:, 0] - rewards[:, 1]
    for kind, place in (("best", margins.argmax()), ("worst", margins.argmin())):
        pair = read_pair(trainer.eval_dataset[int(place)], rewards[place], trainer.processing_class, int(place))
        line = next(line for line in shown.splitlines() if line.startswith(f" {kind} 1"))
        assert pair.prompt.split()[-1] in line
        assert f"{'right' if pair.margin > 0 else 'wrong'} {pair.margin:+.3f}" in shown
        assert f"{pair.chosen_reward:+.3f}   {pair.chosen}" in shown
        assert f"{pair.rejected_reward:+.3f}   {pair.rejected}" in shown
    assert shown.startswith("eval, step 0: best, worst and random pairs\n")
    assert shown.count(" random 1 ") == 1


def test_without_being_asked_for_there_is_no_table(make, capsys) -> None:
    make().evaluate()
    assert "random" not in capsys.readouterr().out


def test_the_random_pairs_are_the_same_at_every_evaluation_and_depend_on_the_seed(make) -> None:
    trainer = make()
    taken = []
    for seed in (0, 0, 1, 2, 3):
        table = SampleTable(2, seed)
        table.take(trainer.eval_dataset, np.arange(14.0).reshape(7, 2), trainer.processing_class, "eval")
        taken.append([pair.index for pair in table._samples["random"]])
    assert taken[0] == taken[1]
    assert len({tuple(indices) for indices in taken}) > 1


def test_of_a_group_the_best_and_the_worst_completion_are_shown(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = [tokenizer(f"q {word}", add_special_tokens=False)["input_ids"] for word in ("one", "two", "three")]
    prompt_length = len(tokenizer("q ", add_special_tokens=False)["input_ids"])
    data = Dataset.from_list([{"completion_input_ids": texts, "prompt_length": prompt_length}])
    table = SampleTable(1, 0)
    table.take(data, np.array([[3.0, 2.0, 1.0, -100.0]]), tokenizer, "eval")
    pair = table._samples["best"][0]
    assert (pair.prompt, pair.chosen, pair.rejected, pair.margin) == ("q", "one", "three", 2.0)


ROWS = [["best", "p", "a", "b", 1.0, 0.5, "right"]]


def test_tensorboard_gets_the_table_as_text(make, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    trainer = make(eval_sample_pairs=1, report_to="tensorboard", max_steps=1, num_evals=1)
    trainer.train()
    events = EventAccumulator(str(tmp_path / "board")).Reload()
    (event,) = events.Tensors("eval/pairs/text_summary")
    text = event.tensor_proto.string_val[0].decode()
    assert event.step == 1
    assert text.splitlines()[0] == f"| {' | '.join(COLUMNS)} |"
    assert [line.split(" | ")[0] for line in text.splitlines()[2:]] == ["| best", "| worst", "| random"]


def test_wandb_and_trackio_get_a_table_when_their_run_is_open(monkeypatch) -> None:
    logged: list[tuple[str, dict[str, Any]]] = []

    def tracker(name: str) -> types.ModuleType:
        module = types.ModuleType(name)
        module.run = None
        module.Table = lambda **content: content
        module.log = lambda values: logged.append((name, values))
        monkeypatch.setitem(sys.modules, name, module)
        return module

    wandb, _ = tracker("wandb"), tracker("trackio")
    to_wandb, to_trackio = WandbCallback.__new__(WandbCallback), TrackioCallback.__new__(TrackioCallback)
    to_trackio._initialized = False
    for callback in (to_wandb, to_trackio):
        send_table(callback, "eval/pairs", ROWS, 7)
    assert logged == []
    wandb.run, to_trackio._initialized = object(), True
    for callback in (to_wandb, to_trackio):
        send_table(callback, "eval/pairs", ROWS, 7)
    (first, to_first), (second, to_second) = logged
    assert (first, second) == ("wandb", "trackio")
    assert to_first == {"eval/pairs": {"columns": list(COLUMNS), "data": ROWS}, "train/global_step": 7}
    assert to_second["eval/pairs"]["dataframe"].to_dict("records") == [dict(zip(COLUMNS, ROWS[0], strict=True))]
    assert to_second["train/global_step"] == 7


def test_a_markdown_table_cannot_be_broken_by_its_texts() -> None:
    table = markdown_table([["best", "a|b\\", "<script>", "two\nlines", 1.0, 2.0, "wrong"]])
    assert table.splitlines()[2] == "| best | a\\|b\\\\ | &lt;script> | two lines | +1.0000 | +2.0000 | wrong |"


# ---- the schedule ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"num_evals": 3}, [3, 5, 8]),
        ({"num_evals": 1}, [8]),
        ({"num_evals": 20}, [1, 2, 3, 4, 5, 6, 7, 8]),
        ({"num_evals": 0}, []),
        ({"num_evals": 0, "eval_strategy": "steps", "eval_steps": 2}, []),
        ({"num_evals": 0, "eval_strategy": "epoch"}, []),
        ({"num_evals": 1, "eval_strategy": "steps", "eval_steps": 3}, [3, 6, 8]),
        ({"num_evals": None, "eval_strategy": "steps", "eval_steps": 4}, [4, 8]),
        ({}, []),
    ],
)
def test_evaluations_are_spread_over_the_run_and_the_last_is_at_its_end(make, settings, expected) -> None:
    trainer = make(max_steps=8, per_device_train_batch_size=2, logging_strategy="no", **settings)
    trainer.train()
    assert [entry["step"] for entry in trainer.state.log_history if "eval_accuracy" in entry] == expected


# ---- numbers that look wrong ----------------------------------------------------------------------------------------


def warnings_of(logs: list[dict[str, float]], caplog: pytest.LogCaptureFixture) -> list[str]:
    callback = SuspiciousNumbers()
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="hf_reward"):
        for step, entry in enumerate(logs):
            callback.on_log(None, TrainerState(global_step=step), TrainerControl(), logs=entry)
    return [record.getMessage() for record in caplog.records]


GOOD = {"reward_margin": 0.1, "reward_std": 1.0, "accuracy": 0.7}


def test_good_numbers_and_a_single_zero_are_no_warning(caplog) -> None:
    assert warnings_of([GOOD] * 50, caplog) == []
    assert warnings_of([GOOD | {"reward_margin": 0.0}, GOOD] * 10, caplog) == []
    assert warnings_of([{"learning_rate": 1.0}, {"eval_accuracy": 0.5}] * 50, caplog) == []


def test_each_suspicious_number_is_warned_of_once_with_its_cause(caplog) -> None:
    margin = warnings_of([GOOD | {"reward_margin": 0.0}] * 9, caplog)
    assert [text.split(":")[:2] for text in margin] == [["step 1", " the reward margin is exactly 0"]]
    std = warnings_of([GOOD | {"reward_std": 0.0, "reward_margin": 0.0}] * 9, caplog)
    assert [text.split("(")[0] for text in std] == ["step 1: all rewards are equal "]
    evaluation = warnings_of([{"eval_math_reward_margin": 0.0}] * 2, caplog)
    assert [text.split(":")[0] for text in evaluation] == ["step 0"]


def test_an_accuracy_of_one_half_is_warned_of_after_many_logs(caplog) -> None:
    chance = [GOOD | {"accuracy": 0.5 + 0.1 * (-1) ** step} for step in range(CHANCE_LOGS)]
    assert warnings_of(chance[:-1], caplog) == []
    (text,) = warnings_of(chance * 2, caplog)
    assert text.startswith(f"step {CHANCE_LOGS - 1}: the accuracy stayed at one half over {CHANCE_LOGS} logs: chosen")
    assert warnings_of([GOOD | {"accuracy": 0.53}] * 2 * CHANCE_LOGS, caplog) == []


def test_a_model_whose_head_is_zero_is_warned_of(make, caplog) -> None:
    trainer = make(max_steps=1)
    trainer.model.score.weight.data.zero_()
    with caplog.at_level(logging.WARNING, logger="hf_reward"):
        metrics = trainer.evaluate()
    assert metrics["eval_reward_std"] == 0
    assert sum("all rewards are equal" in record.getMessage() for record in caplog.records) == 1


def test_workers_cannot_read_a_stream_for_several_processes(make, monkeypatch) -> None:
    trainer = make(dataloader_num_workers=2)
    monkeypatch.setattr(type(trainer.accelerator), "num_processes", 2)
    with pytest.raises(
        ConfigurationError, match="`dataloader_num_workers`: found 2 with a stream to evaluate on 2 pro"
    ):
        trainer.get_eval_dataloader(trainer.eval_dataset.to_iterable_dataset())
    trainer.train_dataset = trainer.train_dataset.to_iterable_dataset()
    assert isinstance(trainer.get_train_dataloader().dataset.dataset, EvenStream)


def test_rewards_that_a_smaller_group_has_not_are_nan(reward_model, tokenizer, chat_pairs, tmp_path) -> None:
    sides = [row["chosen"] for row in chat_pairs]
    rows = [
        {"prompt": row["prompt"], "completions": [row["chosen"], row["rejected"], sides[number - 1]][: 2 + number % 2]}
        for number, row in enumerate(chat_pairs)
    ]
    seen: dict[str, np.ndarray] = {}
    trainer = RewardTrainer(
        reward_model,
        RewardConfig(output_dir=str(tmp_path), per_device_eval_batch_size=1, **SETTINGS),
        eval_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        compute_metrics=lambda output: seen.update(rewards=output.predictions) or {},
    )
    assert trainer.evaluate()["eval_pairs"] == 4 + 3 * 3
    assert seen["rewards"].shape == (7, 3)
    assert np.isnan(seen["rewards"]).tolist() == [[False, False, number % 2 == 0] for number in range(7)]
