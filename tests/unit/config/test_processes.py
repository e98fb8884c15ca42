"""Before processes are connected: locks that nobody holds, and how DeepSpeed computes in bfloat16."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from hf_reward import ConfigurationError, RewardConfig
from hf_reward.config.processes import check_extension_locks


DEEPSPEED: dict[str, Any] = {
    "zero_optimization": {"stage": 2},
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
}
AUTOCAST = {"enabled": True, "dtype": "bfloat16"}


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    (tmp_path / "cpu_adam").mkdir()
    path = tmp_path / "cpu_adam" / "lock"
    path.touch()
    return path


def grow_old(path: Path) -> None:
    os.utime(path, (0, 0))


def test_an_old_lock_that_nobody_holds_is_named_before_deepspeed_starts(
    lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow_old(lock)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ConfigurationError, match=rf"would wait for ever: no process on this machine holds {lock}"):
        RewardConfig(str(tmp_path / "out"), use_cpu=True, report_to="none")


def test_a_lock_that_is_held_is_none_of_ours(lock: Path, caplog: pytest.LogCaptureFixture) -> None:
    grow_old(lock)
    with lock.open(), caplog.at_level(logging.WARNING):
        check_extension_locks()
    assert caplog.text == ""


def test_a_young_lock_may_be_another_machines(lock: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_extension_locks()
    assert f"no process on this machine holds {lock}" in caplog.text


@pytest.mark.parametrize("written", ["nothing", "engine", "autocast"])
def test_bfloat16_in_deepspeed_is_autocast_unless_a_file_says_otherwise(
    written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("deepspeed")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    more: dict[str, dict[str, Any]] = {
        "nothing": {},
        "engine": {"bf16": {"enabled": "auto"}},
        "autocast": {"bf16": {}, "torch_autocast": AUTOCAST | {"lower_precision_safe_modules": []}},
    }
    (tmp_path / "deepspeed.json").write_text(json.dumps(DEEPSPEED | more[written]))
    args = RewardConfig(
        str(tmp_path), use_cpu=True, bf16=True, deepspeed=str(tmp_path / "deepspeed.json"), report_to="none"
    )
    config = args.deepspeed_plugin.deepspeed_config
    expected = {"nothing": AUTOCAST, "engine": None, "autocast": more["autocast"].get("torch_autocast")}
    assert config.get("torch_autocast") == expected[written]
    assert bool(config["bf16"].get("enabled")) is (written == "engine")
    assert ("stores the score head in bfloat16" in caplog.text) is (written == "engine")


def test_float32_stays_float32_in_deepspeed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("deepspeed")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    (tmp_path / "deepspeed.json").write_text(json.dumps(DEEPSPEED))
    args = RewardConfig(str(tmp_path), use_cpu=True, deepspeed=str(tmp_path / "deepspeed.json"), report_to="none")
    assert "torch_autocast" not in args.deepspeed_plugin.deepspeed_config
