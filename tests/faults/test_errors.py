"""What a user reads when something goes wrong: one message, with advice where there is any; a traceback on request."""

import pytest
import torch

from hf_reward import RewardTrainer
from hf_reward.cli.data import main as data
from hf_reward.cli.merge import main as merge
from hf_reward.cli.score import main as score
from hf_reward.cli.train import main as train
from hf_reward.errors import RunError
from hf_reward.training.out_of_memory import is_out_of_memory
from tests.faults.test_resume import spy


@pytest.fixture
def argv(causal_folder, chat_pairs, tmp_path) -> list[str]:
    chat_pairs.to_json(tmp_path / "pairs.jsonl")
    words = ["--model_name_or_path", str(causal_folder), "--dataset_name", str(tmp_path / "pairs.jsonl")]
    return [*words, "--output_dir", str(tmp_path / "out"), "--max_steps", "1", "--gradient_checkpointing", "false"]


def too_much(self, model, inputs, *args, **kwargs):
    return torch.empty(2**58)  # an allocation that no machine can make


def test_memory_that_runs_out_ends_in_advice_and_exit_code_1(argv, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(RewardTrainer, "compute_loss", too_much)
    assert train([*argv, "--per_device_train_batch_size", "4"]) == 1
    error = capsys.readouterr().err
    assert "error: Out of memory (" in error
    assert "DefaultCPUAllocator: can't allocate memory" in error
    for advice in (
        "`per_device_train_batch_size: 2` with `gradient_accumulation_steps: 2`, which trains the same",
        "`gradient_checkpointing: true`",
        "`max_tokens_per_batch`",
        "LoRA",
        "ZeRO-3",
        "`--dry_run`",
    ):
        assert advice in error, advice
    assert "Traceback" not in error
    # Neither a model nor a lock is left.
    assert list((tmp_path / "out").iterdir()) == []


def test_advice_is_only_of_what_was_not_done_yet(reward_model, tokenizer, chat_pairs, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(RewardTrainer, "compute_loss", too_much)
    settings = {"per_device_train_batch_size": 1, "gradient_checkpointing": True, "bf16": True}
    with pytest.raises(RunError) as caught:
        spy(reward_model, tokenizer, chat_pairs, tmp_path, **settings).train()
    assert "`per_device_train_batch_size:" not in str(caught.value)
    assert "`gradient_checkpointing: true`" not in str(caught.value)
    assert "`bf16: true`" not in str(caught.value)
    assert "LoRA" in str(caught.value)


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: not enough memory: you tried"), True),
        (RuntimeError("No executable batch size found, reached zero."), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("CUDA out of memory."), False),
    ],
)  # fmt: skip
def test_which_errors_are_of_memory(error: Exception, is_one: bool) -> None:
    assert is_out_of_memory(error) is is_one


def test_a_mistake_shows_its_traceback_on_request_alone(argv, causal_folder, tmp_path, capsys) -> None:
    absent = str(tmp_path / "absent")
    commands = {
        train: [*argv[:2], "--dataset_name", absent, *argv[4:]],
        data: ["--dataset_name", absent],
        merge: [absent, "--output_dir", str(tmp_path / "merged")],
        score: [str(causal_folder), "--file", absent],
    }
    for command, words in commands.items():
        assert command(words) == 2
        plain = capsys.readouterr().err
        assert command([*words, "--debug"]) == 2
        shown = capsys.readouterr().err
        assert "Traceback" not in plain
        assert "error: " in plain
        assert "Traceback (most recent call last)" in shown
        assert shown.strip().endswith(plain.strip().splitlines()[-1])


def test_an_error_that_nobody_foresaw_keeps_its_traceback(argv, monkeypatch) -> None:
    def broken(*args, **kwargs):
        raise KeyError("a bug")

    monkeypatch.setattr(RewardTrainer, "compute_loss", broken)
    with pytest.raises(KeyError, match="a bug"):
        train(argv)


def test_the_debug_of_the_training_arguments_still_takes_a_value(argv, capsys) -> None:
    assert train([*argv, "--debug", "underflow_overflow", "--dry_run"]) == 0
    assert train([*argv, "--dry_run", "--debug"]) == 0
