"""A resumed run is the uninterrupted one bit for bit, or it is said or refused; each interruption really caused."""

import copy
import dataclasses
import json
import math
import os
import signal
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, TrainingArguments

from hf_reward import ConfigurationError, RewardConfig, RewardTrainer
from hf_reward.cli.train import main as train
from hf_reward.training.checkpoints import checkpoints, newest_complete
from hf_reward.training.fingerprint import DECIDED, FROM_HERE_ON, HARMLESS
from tests.conftest import llama_config


# Four steps an epoch; checkpoints and evaluations fall between two logs, and dropout draws random numbers.
SETTINGS = {
    "use_cpu": True,
    "report_to": "none",
    "gradient_checkpointing": False,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 2,
    "num_train_epochs": 3,
    "logging_steps": 4,
    "save_steps": 3,
    "eval_strategy": "steps",
    "eval_steps": 3,
    "learning_rate": 1e-3,
    "warmup_steps": 2,
    "disable_dropout": False,
    "metric_for_best_model": "loss",
    "load_best_model_at_end": True,
    "disable_tqdm": True,
}
CLOCKS = ("runtime", "per_second")


class Spy(RewardTrainer):
    """Remembers the tokens of each micro-step, and kills itself where it is told to."""

    kill_in_step = -1

    def training_step(self, model, inputs, *args, **kwargs):
        self.__dict__.setdefault("seen", []).append(inputs["input_ids"].sum().item())
        loss = super().training_step(model, inputs, *args, **kwargs)
        if self.state.global_step + 1 == self.kill_in_step:
            os.kill(os.getpid(), signal.SIGKILL)
        return loss


def spy(model, tokenizer, data: Dataset, folder: Path, **settings: Any) -> Spy:
    config = RewardConfig(**(SETTINGS | {"output_dir": str(folder)} | settings))
    return Spy(
        copy.deepcopy(model), config, train_dataset=data, eval_dataset=data, processing_class=copy.deepcopy(tokenizer)
    )


@pytest.fixture
def dropping_model():
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(llama_config(num_labels=1, attention_dropout=0.2))


def in_a_child(run) -> int:
    """Run something in a child process, and return how it ended, as `os.waitpid` says it."""
    child = os.fork()
    if child == 0:
        try:
            run()
        except SystemExit as end:
            os._exit(end.code)
        finally:
            traceback.print_exc()
            os._exit(77)  # not the way that any of these tests expects
    return os.waitpid(child, 0)[1]


def history(trainer: RewardTrainer) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in entry.items() if not name.endswith(CLOCKS)}
        for entry in trainer.state.log_history
    ]


def assert_same_end(one: Spy, two: Spy) -> None:
    """Everything that a run leaves behind, except the time that it took."""
    assert history(two) == history(one)
    for name, weight in one.model.state_dict().items():
        assert torch.equal(two.model.state_dict()[name], weight), name
    first, second = (trainer.optimizer.state_dict()["state"] for trainer in (one, two))
    assert first.keys() == second.keys()
    for number, moments in first.items():
        for name, value in moments.items():
            assert torch.equal(second[number][name], value), (number, name)
    for name in ("global_step", "epoch", "best_metric", "best_global_step", "total_flos", "num_input_tokens_seen"):
        assert getattr(two.state, name) == getattr(one.state, name), name
    assert Path(two.state.best_model_checkpoint).name == Path(one.state.best_model_checkpoint).name
    assert (two.counters.num_pairs, two.counters.num_tokens) == (one.counters.num_pairs, one.counters.num_tokens)


def test_a_run_killed_in_a_step_ends_as_if_nothing_had_happened(
    dropping_model, tokenizer, chat_pairs, tmp_path
) -> None:
    whole = spy(dropping_model, tokenizer, chat_pairs, tmp_path / "whole")
    whole.train()
    killed = spy(dropping_model, tokenizer, chat_pairs, tmp_path / "run")
    killed.kill_in_step = 6
    assert in_a_child(killed.train) == signal.SIGKILL
    assert newest_complete(tmp_path / "run", verify="full") == (tmp_path / "run" / "checkpoint-3", {})
    resumed = spy(dropping_model, tokenizer, chat_pairs, tmp_path / "run")
    resumed.train(resume_from_checkpoint=True)
    assert_same_end(whole, resumed)
    # Seven rows: four steps an epoch of two, two, two and one pair.
    assert len(whole.seen) == 21
    assert resumed.seen == whole.seen[6:]
    assert whole.counters.num_pairs == 21
    # After the last step there is nothing left to train, and the summary is the same.
    again = spy(dropping_model, tokenizer, chat_pairs, tmp_path / "run")
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-12"))
    assert not hasattr(again, "seen")
    assert history(again)[-1]["train_loss"] == history(whole)[-1]["train_loss"]


def test_a_log_after_a_resume_counts_what_came_before_it(reward_model, tokenizer, chat_pairs, tmp_path) -> None:
    settings = {"eval_strategy": "no", "load_best_model_at_end": False, "max_steps": 4, "learning_rate": 1e-2}
    spy(reward_model, tokenizer, chat_pairs, tmp_path, **settings).train()
    resumed = spy(reward_model, tokenizer, chat_pairs, tmp_path, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    logs = history(resumed)
    one_by_one = spy(reward_model, tokenizer, chat_pairs, tmp_path / "steps", logging_steps=1, **settings)
    one_by_one.train()
    losses = [entry["loss"] for entry in history(one_by_one) if "loss" in entry]
    assert logs[0]["loss"] == pytest.approx(sum(losses) / 4, rel=1e-6)
    assert logs[0]["num_pairs"] == 7
    assert logs[-1]["train_loss"] == pytest.approx(sum(losses) / 4, rel=1e-6)


def test_steps_left_out_are_counted_across_a_resume(reward_model, tokenizer, chat_pairs, tmp_path) -> None:
    settings = {"eval_strategy": "no", "load_best_model_at_end": False, "train_sampling_strategy": "sequential"}
    rows = chat_pairs.add_column("margin", [0.0, math.nan, 0.0, 0.0, 0.0, 0.0, math.nan])

    def run(**more: Any) -> Spy:
        one = spy(reward_model, tokenizer, chat_pairs, tmp_path, skip_non_finite_steps=1, **settings, **more)
        # At the level of the interface, where no reader checks it.
        one.train_dataset = one.train_dataset.add_column("margin", rows["margin"][:])
        return one

    first = run(max_steps=3)
    first.train()
    assert first.skipped_steps == 1
    with pytest.raises(RuntimeError, match=r"step 4 is not finite .* 1 such steps were left out before"):
        run().train(resume_from_checkpoint=True)


def test_a_resume_with_restored_callbacks_counts_on(reward_model, tokenizer, chat_pairs, tmp_path) -> None:
    settings = {"eval_strategy": "no", "load_best_model_at_end": False, "max_steps": 4}
    whole = spy(reward_model, tokenizer, chat_pairs, tmp_path, **settings)
    whole.train()
    resumed = spy(
        reward_model, tokenizer, chat_pairs, tmp_path, restore_callback_states_from_checkpoint=True, **settings
    )
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert resumed.counters.num_pairs == whole.counters.num_pairs == 7
    assert history(resumed) == history(whole)


# ---- what is compared -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory):
    """A run of one checkpoint, and what made it."""
    from hf_reward.quickstart.model import byte_tokenizer
    from tests.conftest import PAIRS

    folder = tmp_path_factory.mktemp("asked")
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(llama_config(num_labels=1))
    rows = Dataset.from_list([{"prompt": p, "chosen": c, "rejected": r} for p, c, r in PAIRS])
    made = {"model": model, "tokenizer": byte_tokenizer(), "data": rows, "folder": folder / "run"}
    quiet = {"eval_strategy": "no", "load_best_model_at_end": False, "metric_for_best_model": None}
    made["settings"] = quiet | {"max_steps": 3, "save_strategy": "steps"}
    spy(*[made[name] for name in ("model", "tokenizer", "data", "folder")], **made["settings"]).train()
    return made


def resume(made: dict[str, Any], **changes: Any) -> Spy:
    settings = made["settings"] | {"save_strategy": "no"} | changes
    settings |= {"resume": str(made["folder"] / "checkpoint-3")}
    where = settings.pop("resume")
    model, tokenizer, data = (settings.pop(name, made[name]) for name in ("model", "tokenizer", "data"))
    one = spy(model, tokenizer, data, made["folder"], **settings)
    one.train(resume_from_checkpoint=where)
    return one


def test_what_was_asked_lies_in_the_checkpoint_without_paths_or_secrets(checkpoint) -> None:
    text = (checkpoint["folder"] / "checkpoint-3" / "asked.json").read_text()
    asked = json.loads(text)
    assert asked["settings"]["max_length"] == 1024
    assert asked["settings"]["optim"].startswith("adamw")
    assert (asked["pairs_per_step"], asked["processes"], asked["steps"], asked["data"]["rows"]) == (2, 1, 3, 7)
    assert asked["model"]["class"] == "LlamaForSequenceClassification"
    assert "/" not in text
    assert len(text) < 3000


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_length": 512}, "`max_length` was 1024, now it is 512"),
        ({"overlong": "truncate_prompt"}, "`overlong` was 'drop', now it is 'truncate_prompt'"),
        ({"label_smoothing": 0.1}, "`label_smoothing` was 0.0, now it is 0.1"),
        ({"center_rewards_coefficient": 0.01}, "`center_rewards_coefficient` was None, now it is 0.01"),
        ({"learning_rate": 2e-3}, "`learning_rate` was 0.001, now it is 0.002"),
        ({"weight_decay": 0.1}, "`weight_decay` was 0.0, now it is 0.1"),
        ({"seed": 7}, "`seed` was 42, now it is 7"),
        ({"gradient_accumulation_steps": 4}, "an optimizer step had 2 pairs, now it has 4"),
    ],
)
def test_a_setting_that_the_checkpoint_has_decided_is_refused(checkpoint, changes, said) -> None:
    with pytest.raises(ConfigurationError, match=f"checkpoint-3 cannot be gone on from: .*{said}"):
        resume(checkpoint, **changes)


def test_other_data_is_refused_row_order_and_all(checkpoint) -> None:
    for rows, said in (
        (checkpoint["data"].select(range(6)), "7 pairs then, 6 now"),
        (checkpoint["data"].select([1, 0, 2, 3, 4, 5, 6]), "7 pairs then, 7 now"),
    ):
        with pytest.raises(ConfigurationError, match=rf"the training data is another \({said}\)"):
            resume(checkpoint, data=rows)


def test_another_template_is_refused(checkpoint) -> None:
    other = copy.deepcopy(checkpoint["tokenizer"])
    other.chat_template = "{{ 'Hm: ' }}" + other.chat_template
    with pytest.raises(ConfigurationError, match="the chat template is another"):
        resume(checkpoint, tokenizer=other)


def test_another_model_or_adapter_is_refused(checkpoint) -> None:
    torch.manual_seed(0)
    other = AutoModelForSequenceClassification.from_config(llama_config(num_labels=1, num_hidden_layers=3))
    with pytest.raises(ConfigurationError, match="the model is another: a LlamaForSequenceClassification of 27,008"):
        resume(checkpoint, model=other)


def test_what_holds_from_here_on_is_said_and_the_run_goes_on(checkpoint, caplog) -> None:
    resumed = resume(checkpoint, max_grad_norm=0.5, max_steps=4, per_device_train_batch_size=2,
                     gradient_accumulation_steps=1)  # fmt: skip
    assert resumed.state.global_step == 4
    assert "resuming is not bit for bit: `max_grad_norm` was 1.0, now it is 0.5" in caplog.text
    assert "the run had 3 steps, now it has 4" in caplog.text
    assert "`per_device_train_batch_size` was 1, now it is 2" in caplog.text


def test_what_changes_no_number_is_not_mentioned(checkpoint, caplog) -> None:
    resume(checkpoint, logging_steps=1, save_steps=1, dataloader_num_workers=0, run_name="other", eval_sample_pairs=2)
    assert "not bit for bit" not in caplog.text


def test_every_setting_of_ours_is_decided_or_holds_from_here_on_or_is_harmless() -> None:
    inherited = {field.name: field.default for field in dataclasses.fields(TrainingArguments)}
    ours = {field.name for field in dataclasses.fields(RewardConfig) if inherited.get(field.name) != field.default}
    classes = (DECIDED, FROM_HERE_ON, HARMLESS)
    assert ours - {name for group in classes for name in group} == set()
    everything = [name for group in classes for name in group]
    assert len(everything) == len(set(everything))
    assert set(everything) - {field.name for field in dataclasses.fields(RewardConfig)} == set()


def test_a_checkpoint_of_another_engine_or_without_an_optimizer_is_refused(checkpoint, tmp_path) -> None:
    import shutil

    folder = tmp_path / "checkpoint-3"
    shutil.copytree(checkpoint["folder"] / "checkpoint-3", folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"mode": "DEEPSPEED"}))
    one = spy(checkpoint["model"], checkpoint["tokenizer"], checkpoint["data"], tmp_path, **checkpoint["settings"])
    with pytest.raises(ConfigurationError, match="written under DeepSpeed, and this run is one model per process"):
        one.train(resume_from_checkpoint=str(folder))
    for name in ("optimizer.pt", "scheduler.pt"):
        (folder / name).unlink()
        del manifest["files"][name]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ConfigurationError, match="holds no optimizer"):
        one.train(resume_from_checkpoint=str(folder))


def test_the_command_refuses_to_go_on_with_other_data_or_length(
    causal_folder, chat_pairs, tmp_path, capsys, monkeypatch
) -> None:
    chat_pairs.to_json(tmp_path / "pairs.jsonl")
    chat_pairs.select(range(5)).to_json(tmp_path / "fewer.jsonl")
    argv = ["--model_name_or_path", str(causal_folder), "--output_dir", str(tmp_path / "out"), "--save_steps", "1"]
    argv += ["--resume_from_checkpoint", "auto", "--gradient_checkpointing", "false", "--max_steps"]
    data = ["--dataset_name", str(tmp_path / "pairs.jsonl")]
    assert train([*argv, "1", *data]) == 0
    before = sorted(path.name for path in (tmp_path / "out").iterdir())
    loaded: list[str] = []
    monkeypatch.setattr("hf_reward.training.run.load_reward_model", lambda name, **_: loaded.append(name))
    for words, said in (
        ([*data, "--max_length", "99"], "`max_length` was 1024, now it is 99"),
        (["--dataset_name", str(tmp_path / "fewer.jsonl")], "(7 pairs then, 5 now)"),
        ([*data, "--chat_template_path", "tulu"], "the chat template is another"),
    ):
        capsys.readouterr()
        assert train([*argv, "2", *words]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert "Traceback" not in error
    assert not loaded
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == before


# ---- rotation -------------------------------------------------------------------------------------------------------


def test_the_newest_and_the_best_checkpoint_are_there_at_every_moment(
    reward_model, tokenizer, chat_pairs, tmp_path
) -> None:
    class Worsening(RewardTrainer):
        """The first evaluation is the best."""

        def evaluate(self, *args, **kwargs):
            metrics = super().evaluate(*args, **kwargs)
            return metrics | {"eval_loss": float(self.state.global_step)}

        def _save_checkpoint(self, model, trial):
            super()._save_checkpoint(model, trial)
            seen.append([path.name for path in checkpoints(tmp_path)])

    seen: list[list[str]] = []
    one = spy(reward_model, tokenizer, chat_pairs, tmp_path, save_total_limit=1, num_train_epochs=3)
    one.__class__ = Worsening
    one.train()
    assert seen == [["checkpoint-3"]] + [["checkpoint-3", f"checkpoint-{step}"] for step in (6, 9, 12)]
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-3", "checkpoint-12"]
    assert Path(one.state.best_model_checkpoint).name == "checkpoint-3"
