"""What leaves a run: to the Hub by the Trainer's own way, and to a tracker."""

from pathlib import Path
from typing import Any

import pytest
import transformers.trainer
from datasets import Dataset

from hf_reward import run_training


@pytest.fixture
def settings(causal_folder: Path, chat_pairs: Dataset, tmp_path: Path) -> dict[str, Any]:
    chat_pairs.to_json(tmp_path / "pairs.jsonl")
    return {
        "model_name_or_path": str(causal_folder),
        "dataset_name": str(tmp_path / "pairs.jsonl"),
        "output_dir": str(tmp_path / "out"),
        "max_steps": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "gradient_checkpointing": False,
    }


class FakeHub:
    """What the Trainer asks of the Hub, and the files that would have been uploaded."""

    def __init__(self) -> None:
        self.created: list[dict[str, Any]] = []
        self.uploads: list[dict[str, Any]] = []

    def create_repo(self, name: str, **options: Any) -> Any:
        self.created.append({"name": name, **options})
        return type("RepoUrl", (), {"repo_id": name})()

    def upload_folder(self, *, folder_path: str, **options: Any) -> str:
        self.uploads.append({"files": {path.name for path in Path(folder_path).iterdir()}, **options})
        return "done"


def test_push_to_hub_goes_once_with_the_card_by_the_trainers_own_way(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = FakeHub()
    monkeypatch.setattr(transformers.trainer, "hf_api", lambda: hub)
    run_training(**settings, push_to_hub=True, hf_entity="people", hf_repo_id="reward", hf_repo_revision="v1")
    assert [created["name"] for created in hub.created] == ["people/reward"]
    assert len(hub.uploads) == 1
    upload = hub.uploads[0]
    assert (upload["repo_id"], upload["revision"]) == ("people/reward", "v1")
    assert {"README.md", "model.safetensors", "config.json", "tokenizer.json", "training.png"} <= upload["files"]
    card = (Path(settings["output_dir"]) / "README.md").read_text()
    assert 'RewardScorer.from_pretrained("people/reward")' in card
    assert str(Path(settings["output_dir"]).parent) not in card


def test_nothing_is_pushed_unless_asked_for(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    hub = FakeHub()
    monkeypatch.setattr(transformers.trainer, "hf_api", lambda: hub)
    run_training(**settings)
    assert (hub.created, hub.uploads) == ([], [])


def test_metrics_reach_tensorboard(settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    run_training(**settings, report_to="tensorboard")
    folder = next((tmp_path / "board").rglob("events.out*")).parent
    events = EventAccumulator(str(folder))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    expected = {"accuracy", "tie_rate", "reward_margin", "chosen_reward", "rejected_reward", "reward_std"}
    assert {f"train/{name}" for name in expected | {"loss", "learning_rate", "num_pairs", "num_tokens"}} <= tags
    assert [event.value for event in events.Scalars("train/num_pairs")] == [7.0, 14.0, 14.0]  # two steps, the summary
