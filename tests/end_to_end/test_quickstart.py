"""The quickstart learns its task, and what it saves gives the same rewards to every reader of plain checkpoints."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from hf_reward import RewardScorer
from hf_reward.cli.quickstart import main as quickstart


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a quickstart with seed 1."""
    folder = tmp_path_factory.mktemp("quickstart")
    assert quickstart(["--output_dir", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def model_folder(finished: Path) -> Path:
    return finished / "model"


@pytest.fixture(scope="module")
def conversations(finished: Path) -> list[list[dict[str, str]]]:
    """Chosen and rejected conversations of eight held-out pairs."""
    rows = [json.loads(line) for line in (finished / "data" / "heldout.jsonl").read_text().splitlines()[:8]]
    return [row["prompt"] + row[side] for row in rows for side in ("chosen", "rejected")]


@pytest.fixture(scope="module")
def our_rewards(model_folder: Path, conversations: list[list[dict[str, str]]]) -> torch.Tensor:
    return torch.tensor(RewardScorer.from_pretrained(model_folder).score(conversations))


def accuracies(folder: Path) -> list[float]:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry["eval_accuracy"] for entry in history if "eval_accuracy" in entry]


def test_held_out_accuracy_rises_from_one_half_to_above_95_percent(model_folder: Path) -> None:
    curve = accuracies(model_folder)
    assert 0.35 <= curve[0] <= 0.65
    assert curve[-1] > 0.95
    results = json.loads((model_folder / "eval_results.json").read_text())
    assert results["eval_accuracy"] == curve[-1]
    assert results["eval_pairs"] == 500


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
def test_every_seed_learns(seed: int, tmp_path: Path) -> None:
    assert quickstart(["--output_dir", str(tmp_path), "--seed", str(seed)]) == 0
    curve = accuracies(tmp_path / "model")
    assert 0.35 <= curve[0] <= 0.65
    assert curve[-1] > 0.95


def test_everything_lies_beside_the_checkpoint(model_folder: Path) -> None:
    names = {path.name for path in model_folder.iterdir()}
    assert names == {
        *("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
        *("train_results.json", "eval_results.json", "all_results.json", "trainer_state.json", "data_report.json"),
        *("training.png", "rewards.png", "data.png", "README.md"),
    }
    config = json.loads((model_folder / "config.json").read_text())
    assert config["id2label"] == {"0": "LABEL_0"}
    assert config["problem_type"] == "regression"
    assert config["pad_token_id"] not in (None, config["eos_token_id"])
    assert config["sentence_transformers"] == {"activation_fn": "torch.nn.modules.linear.Identity"}
    results = json.loads((model_folder / "eval_results.json").read_text())
    assert config["reward_std"] == pytest.approx(results["eval_reward_std"], rel=1e-5)
    assert config["reward_mean"] == pytest.approx(results["eval_reward_mean"], abs=1e-5)


def test_counters_are_those_of_a_hand_count(finished: Path) -> None:
    results = json.loads((finished / "model" / "train_results.json").read_text())
    state = json.loads((finished / "model" / "trainer_state.json").read_text())
    logged = [entry["num_pairs"] for entry in state["log_history"] if "num_pairs" in entry and "loss" in entry]
    steps = [entry["step"] for entry in state["log_history"] if "num_pairs" in entry and "loss" in entry]
    assert logged == [16 * step for step in steps]
    assert results["num_pairs"] == 16 * state["max_steps"]


@pytest.mark.parametrize("side", ["right", "left"])
def test_plain_transformers_gives_our_rewards_in_batches_and_alone(
    side: str, model_folder: Path, conversations: list[list[dict[str, str]]], our_rewards: torch.Tensor
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForSequenceClassification.from_pretrained(model_folder, dtype=torch.float32).eval()
    many = tokenizer.apply_chat_template(
        conversations, return_dict=True, return_tensors="pt", padding=True, tokenizer_kwargs={"padding_side": side}
    )
    assert many["attention_mask"].min() == 0
    assert bool((many["attention_mask"][:, -1] == 0).any()) == (side == "right")
    with torch.no_grad():
        together = model(**many).logits.squeeze(-1)
        alone = torch.stack(
            [
                model(**tokenizer.apply_chat_template(c, return_dict=True, return_tensors="pt")).logits[0, 0]
                for c in conversations
            ]
        )
    torch.testing.assert_close(together, our_rewards, rtol=0, atol=1e-5)
    torch.testing.assert_close(alone, our_rewards, rtol=0, atol=1e-5)
    assert our_rewards.std() > 1


def test_pipeline_gives_our_rewards(
    model_folder: Path, conversations: list[list[dict[str, str]]], our_rewards: torch.Tensor
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    texts = [tokenizer.apply_chat_template(c, tokenize=False) for c in conversations]
    classify = pipeline("text-classification", model=str(model_folder), dtype=torch.float32)
    scores = torch.tensor([result["score"] for result in classify(texts, add_special_tokens=False)])
    torch.testing.assert_close(scores, our_rewards, rtol=0, atol=1e-5)


def test_cross_encoder_gives_our_rewards(
    model_folder: Path, conversations: list[list[dict[str, str]]], our_rewards: torch.Tensor
) -> None:
    from sentence_transformers import CrossEncoder

    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    texts = [tokenizer.apply_chat_template(c, tokenize=False) for c in conversations]
    scores = torch.as_tensor(CrossEncoder(str(model_folder)).predict(texts))
    torch.testing.assert_close(scores.cpu(), our_rewards, rtol=0, atol=1e-5)


def test_training_read_the_ids_of_the_saved_chat_template(finished: Path) -> None:
    from hf_reward.data.encoding import RowEncoder
    from hf_reward.data.formats import parse_row

    tokenizer = AutoTokenizer.from_pretrained(finished / "model")
    row = json.loads((finished / "data" / "train.jsonl").read_text().splitlines()[0])
    (pair,) = RowEncoder(tokenizer, "train")([parse_row(row, "row 1")], ["row 1"])
    for side, found in zip(("chosen", "rejected"), pair.sides, strict=True):
        assert found == tokenizer.apply_chat_template(row["prompt"] + row[side], return_dict=False)
        assert found[-1] == tokenizer.eos_token_id
