"""The command and its programmatic form: the seed's command line, a dry run, LoRA, resuming, and mistakes."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from hf_reward import ConfigurationError, RewardScorer, run_training
from hf_reward.cli.score import main as score
from hf_reward.cli.train import main as train


FAST = ["--max_steps", "2", "--gradient_checkpointing", "false", "--save_strategy", "no"]


@pytest.fixture
def pairs_file(tmp_path: Path, chat_pairs: Dataset) -> Path:
    chat_pairs.to_json(tmp_path / "pairs.jsonl")
    return tmp_path / "pairs.jsonl"


@pytest.fixture
def eval_file(tmp_path: Path, chat_pairs: Dataset) -> Path:
    rows = [row | {"prompt": [{"role": "user", "content": f"Now {i}?"}]} for i, row in enumerate(chat_pairs)]
    Dataset.from_list(rows).to_json(tmp_path / "eval.jsonl")
    return tmp_path / "eval.jsonl"


def implicit(chat_pairs: Dataset) -> list[dict[str, Any]]:
    return [{side: row["prompt"] + row[side] for side in ("chosen", "rejected")} for row in chat_pairs]


def test_the_seed_documents_command_line_runs_as_it_stands(
    causal_folder: Path, chat_pairs: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    Dataset.from_list(implicit(chat_pairs)).to_json(tmp_path / "pairs.jsonl")
    monkeypatch.chdir(tmp_path)
    command = f"""
    --dataset_mixer_list {tmp_path / "pairs.jsonl"} 1.0
    --model_name_or_path {causal_folder}
    --num_labels 1
    --per_device_train_batch_size 1
    --gradient_accumulation_steps 8
    --learning_rate 2e-5
    --num_train_epochs 1
    --lr_scheduler_type linear
    --output_dir output/reward_model
    --with_tracking
    """
    assert train(command.split()) == 0
    results = json.loads((tmp_path / "output" / "reward_model" / "train_results.json").read_text())
    assert results["num_pairs"] == 7
    assert RewardScorer.from_pretrained(tmp_path / "output" / "reward_model").score("a text") != [0.0]


def test_the_seed_documents_python_example_runs(causal_folder: Path, pairs_file: Path, tmp_path: Path) -> None:
    result = run_training(
        dataset_mixer_list=[str(pairs_file), "1.0"],
        per_device_train_batch_size=1,
        gradient_accumulation_steps=8,
        learning_rate=2e-5,
        num_train_epochs=1,
        output_dir=str(tmp_path / "reward_model"),
        tokenizer_name_or_path=str(causal_folder),
        model_name_or_path=str(causal_folder),
    )
    assert result.train_metrics["num_pairs"] == 7
    assert (tmp_path / "reward_model" / "README.md").is_file()


def test_a_recipe_and_the_command_line(
    causal_folder: Path, pairs_file: Path, eval_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"model_name_or_path: {causal_folder}\ndataset_name: {pairs_file}\neval_dataset_name: {eval_file}\n"
        f"output_dir: {tmp_path / 'out'}\nlearning_rate: 2e-5\nnum_evals: 2\nmax_steps: 4\nlogging_steps: 1\n"
        "gradient_checkpointing: false\nsave_strategy: no\n"
    )
    assert train([str(recipe), "--learning_rate", "1e-3"]) == 0
    history = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in history if "eval_loss" in entry and "epoch" in entry][:2] == [2, 4]
    assert next(entry["learning_rate"] for entry in history if "learning_rate" in entry) == pytest.approx(1e-3)
    printed = capsys.readouterr().out
    assert "Held-out pairs" in printed
    assert "7" in printed
    assert f"hf_reward-score {tmp_path / 'out'}" in printed


def test_a_dry_run_counts_the_steps_of_a_token_budget_as_the_run_makes_them(
    causal_folder: Path, pairs_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model_name_or_path", str(causal_folder), "--dataset_name", str(pairs_file), "--use_cpu", "true"]
    options += ["--output_dir", str(tmp_path / "out"), "--max_tokens_per_batch", "200", "--num_train_epochs", "2"]
    assert train([*options, "--dry_run"]) == 0
    printed = capsys.readouterr().out
    assert train(options) == 0
    steps = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["max_steps"]
    assert 2 <= steps < 14
    assert f"{steps} optimizer steps, batches shared prompt" in printed


def test_a_dry_run_shows_everything_and_writes_nothing(
    causal_folder: Path, pairs_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.rglob("*"))
    options = ["--model_name_or_path", str(causal_folder), "--dataset_name", str(pairs_file)]
    options += ["--output_dir", str(tmp_path / "out"), "--per_device_train_batch_size", "2", "--num_train_epochs", "3"]
    assert train([*options, "--dry_run"]) == 0
    assert sorted(tmp_path.rglob("*")) == before
    printed = capsys.readouterr().out
    assert "<|user|>What is 2 + 2?<|assistant|>It is 4. [<eos>] <- the reward is read here" in " ".join(
        printed.split("\n")
    )
    assert "12 optimizer steps of 2 pairs, batches shared prompt" in printed
    # 262 x 32 embedding, two layers, the last norm, and a head of 32.
    layer = 32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 64 + 2 * 32
    assert f"{262 * 32 + 2 * layer + 32 + 32:,} parameters" in printed
    assert train([*options, "--dry_run", "--use_peft", "--lora_r", "4"]) == 0
    # q and v of both layers get 4 x (32 + 32) and 4 x (32 + 16); the head trains whole.
    assert f"{2 * (4 * 64 + 4 * 48) + 32:,} of them trained" in capsys.readouterr().out


def test_lora_by_use_peft_is_saved_with_its_head_and_checked(
    causal_folder: Path, pairs_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "adapter"
    result = run_training(
        model_name_or_path=str(causal_folder),
        dataset_name=str(pairs_file),
        output_dir=str(out),
        use_peft=True,
        max_steps=3,
        learning_rate=1e-2,
        save_strategy="no",
    )
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["task_type"] == "SEQ_CLS"
    assert "score" in config["modules_to_save"]
    from safetensors.torch import load_file

    weights = load_file(out / "adapter_model.safetensors")
    head = next(value for name, value in weights.items() if name.endswith("score.weight"))
    assert head.dtype == torch.float32
    assert head.shape == (1, 32)
    assert result.train_metrics["num_pairs"] == 3 * 7  # one batch of eight holds all seven
    first = RewardScorer.from_pretrained(out).score(["a text", "another, longer text"])
    again = RewardScorer.from_pretrained(out).score(["another, longer text", "a text"], batch_size=1)
    assert first == pytest.approx(again[::-1], abs=1e-6)
    assert abs(first[0] - first[1]) > 1e-3


def test_counters_and_weights_survive_a_resume(causal_folder: Path, pairs_file: Path, tmp_path: Path) -> None:
    settings = {
        "model_name_or_path": str(causal_folder),
        "dataset_name": str(pairs_file),
        "per_device_train_batch_size": 2,
        "logging_steps": 2,
        "save_strategy": "steps",
        "save_steps": 3,
        "gradient_checkpointing": False,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
    }
    whole = run_training(**settings, output_dir=str(tmp_path / "whole"), num_train_epochs=2)
    run_training(**settings, output_dir=str(tmp_path / "parts"), max_steps=3)
    with pytest.raises(ConfigurationError, match="holds checkpoint-3 of an earlier run"):
        run_training(**settings, output_dir=str(tmp_path / "parts"), num_train_epochs=2)
    parts = run_training(
        **settings, output_dir=str(tmp_path / "parts"), num_train_epochs=2, resume_from_checkpoint="true"
    )
    assert whole.train_metrics["num_pairs"] == 14
    for name in ("num_pairs", "num_tokens"):
        assert parts.train_metrics[name] == whole.train_metrics[name], name
    from safetensors.torch import load_file

    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    for name, weight in one.items():
        assert torch.equal(two[name], weight), name


def test_no_pickle_and_no_secret_lies_in_the_output(causal_folder: Path, pairs_file: Path, tmp_path: Path) -> None:
    secret = "hf_" + "x" * 34
    run_training(
        model_name_or_path=str(causal_folder),
        dataset_name=str(pairs_file),
        output_dir=str(tmp_path / "out"),
        hub_token=secret,
        max_steps=1,
        save_strategy="steps",
        save_steps=1,
        save_only_model=True,
    )
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) > 10
    assert not [path.name for path in files if path.suffix in (".bin", ".pt", ".pkl")]
    assert not [path.name for path in files if secret.encode() in path.read_bytes()]


def test_hf_reward_score(
    causal_folder: Path, pairs_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    assert (
        train(
            ["--model_name_or_path", str(causal_folder), "--dataset_name", str(pairs_file), "--output_dir", out, *FAST]
        )
        == 0
    )
    capsys.readouterr()
    assert score([out, "--prompt", "Say hello.", "--completion", "Hello!", "--completion", "No."]) == 0
    lines = capsys.readouterr().out.splitlines()
    scorer = RewardScorer.from_pretrained(out)
    prompt = [{"role": "user", "content": "Say hello."}]
    rewards = scorer.score([[*prompt, {"role": "assistant", "content": text}] for text in ("Hello!", "No.")])
    assert lines == [f"{rewards[0]:+.4f}  Hello!", f"{rewards[1]:+.4f}  No."]
    file = tmp_path / "texts.jsonl"
    file.write_text('{"text": "one"}\n\n"two"\n')
    assert score([out, "--file", str(file)]) == 0
    read = [json.loads(line)["reward"] for line in capsys.readouterr().out.splitlines()]
    assert read == pytest.approx(scorer.score(["one", "two"]), abs=1e-6)
    assert score([str(causal_folder), "--completion", "a"]) == 2
    assert "holds no score head" in capsys.readouterr().err
    file.write_text('{"text": "one"}\nnot json\n')
    assert score([out, "--file", str(file)]) == 2
    assert "line 2: not JSON" in capsys.readouterr().err


def write(path: Path, *lines: str) -> str:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


GOOD = '{"prompt": "a", "chosen": "b", "rejected": "c"}'
MISTAKES = {
    "a missing file": (lambda d: ["--dataset_name", str(d / "absent.jsonl")], "absent.jsonl"),
    "an empty file": (lambda d: ["--dataset_name", write(d / "d.jsonl")], "d.jsonl"),
    "not JSON": (lambda d: ["--dataset_name", write(d / "d.jsonl", GOOD, "{nonsense")], "line 2"),
    "no chosen": (lambda d: ["--dataset_name", write(d / "d.jsonl", '{"prompt": "a", "rejected": "c"}')], "chosen"),
    "None content": (
        lambda d: ["--dataset_name", write(d / "d.jsonl", GOOD.replace('"b"', "null"))],
        "row 1: `chosen` is None",
    ),
    "a wrong role": (
        lambda d: [
            "--dataset_name",
            write(
                d / "d.jsonl",
                '{"chosen": [{"role": "robot", "content": "b"}], "rejected": [{"role": "assistant", "content": "c"}]}',
            ),
        ],
        "chosen[0].role",
    ),
    "max_length drops all": (
        lambda d: ["--dataset_name", write(d / "d.jsonl", GOOD), "--max_length", "2"],
        "0 of 1 pairs",
    ),
    "no evaluation split": (
        lambda d: ["--dataset_name", write(d / "d.jsonl", GOOD), "--dataset_test_split", "validation"],
        "validation",
    ),
    "evaluation without data": (
        lambda d: ["--dataset_name", write(d / "d.jsonl", GOOD), "--eval_strategy", "epoch"],
        "no evaluation data",
    ),
    "an output folder under a file": (
        lambda d: ["--dataset_name", write(d / "d.jsonl", GOOD), "--output_dir", write(d / "file") + "/out"],
        "nothing can be written",
    ),
    "a misspelt key": (
        lambda d: ["--dataset_name", write(d / "d.jsonl", GOOD), "--learning_rat", "1"],
        "learning_rate",
    ),
    "a wrong type": (
        lambda d: ["--dataset_name", write(d / "d.jsonl", GOOD), "--per_device_train_batch_size", "2.5"],
        "per_device_train_batch_size",
    ),
    "several labels": (lambda d: ["--dataset_name", write(d / "d.jsonl", GOOD), "--num_labels", "2"], "num_labels"),
    "no data at all": (lambda d: [], "dataset_name"),
    "a model that is not there": (
        lambda d: ["--dataset_name", write(d / "d.jsonl", GOOD), "--model_name_or_path", str(d / "nowhere")],
        "nowhere",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_said_before_any_model_is_loaded_and_writes_nothing(
    mistake: str,
    causal_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import hf_reward.training.run as run_module

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(run_module, "load_reward_model", never)
    make, expected = MISTAKES[mistake]
    folder = tmp_path / "given"
    folder.mkdir()
    options = {"--model_name_or_path": str(causal_folder), "--output_dir": str(tmp_path / "out")}
    given = make(folder)
    argv = [text for key, value in options.items() if key not in given for text in (key, value)] + given
    before = sorted(tmp_path.rglob("*"))
    assert train(argv) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert "Traceback" not in error
    assert sorted(tmp_path.rglob("*")) == before


def test_a_checkpoint_with_several_labels_is_refused(
    tokenizer, pairs_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForSequenceClassification

    from tests.conftest import llama_config

    AutoModelForSequenceClassification.from_config(llama_config(num_labels=3)).save_pretrained(tmp_path / "three")
    tokenizer.save_pretrained(tmp_path / "three")
    argv = ["--model_name_or_path", str(tmp_path / "three"), "--dataset_name", str(pairs_file)]
    assert train([*argv, "--output_dir", str(tmp_path / "out")]) == 2
    assert "3 labels; a reward model has one output" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_environment_is_left_alone() -> None:
    assert "WANDB_PROJECT" not in os.environ
