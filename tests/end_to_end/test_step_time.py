"""The benchmark of whole training steps: a short run of it, going on where it was, and its table by hand."""

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import step_time


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    threads = torch.get_num_threads()

    def run(*arguments: str) -> dict:
        cell = ["--lengths", "hh_like", "--pairs", "1", "--systems", "trl", "grouped", "shared_prompt"]
        output = ["--output", str(tmp_path / "short.json"), "--chart", str(tmp_path / "short.png")]
        monkeypatch.setattr(sys, "argv", ["step_time.py", *cell, *output, *arguments])
        step_time.main()
        return json.loads((tmp_path / "short_hh_like.json").read_text())

    yield run
    torch.set_num_threads(threads)


def test_a_short_run_goes_on_where_it_was(run, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    first = run("--batches", "1", "--profile")
    (batch,) = first["batches"]
    rows = step_time.generated("hh_like", 2000)
    ((drawn, grouped),) = step_time.batches_of(step_time.as_dataset(rows), pairs=1, count=1)
    sides = {side: len(rows[drawn[0]][f"{side}_input_ids"]) for side in ("chosen", "rejected")}
    assert batch["trl"]["tokens"] == 2 * max(sides.values())
    assert grouped == drawn
    assert batch["shared_prompt"]["tokens"] < sum(sides.values())
    assert all(batch[system]["peak_mib"] > 1 for system in ("trl", "grouped", "shared_prompt"))
    for parts in first["profile"].values():
        assert sum(parts.values()) == pytest.approx(1)
        assert parts["matrix products"] > 0.2
        assert parts["attention"] > 0.005
    keys_and_values, layer = 2 * 384 * 128, 2 * 384 * 384 + 2 * 384 * 128 + 3 * 384 * 1024
    assert first["operations_of_a_token"] == 6 * (5 * layer + keys_and_values)
    assert first["operations_a_second"] > 1e9
    assert (tmp_path / "short.png").read_bytes().startswith(b"\x89PNG")
    assert "one step of shared_prompt: attention" in capsys.readouterr().out

    second = run("--batches", "2")
    assert second["batches"][0] == batch
    assert len(second["batches"]) == 2
    assert "peak_mib" not in second["batches"][1]["trl"]
    assert second["profile"] == first["profile"]


def test_the_table_by_hand() -> None:
    def cell(cpu_s: float, tokens: int, **more: float) -> dict[str, float]:
        return {"cpu_s": cpu_s, "wall_s": cpu_s, "tokens": tokens, **more}

    batches = [
        {
            "trl": cell(8, 800, peak_mib=100),
            "grouped": cell(4, 400, peak_mib=50),
            "shared_prompt": cell(2, 200, peak_mib=25),
        },
        {"trl": cell(4, 400), "grouped": cell(2, 200), "shared_prompt": cell(1, 100)},
    ]
    result = {"batches": batches, "pairs_per_batch": 3, "operations_of_a_token": 50, "operations_a_second": 10_000}
    trl, grouped, shared = step_time.summary(result)
    assert (trl["speed to TRL"], grouped["speed to TRL"], shared["speed to TRL"]) == (1, 2, 4)
    assert (shared["speed to grouped"], shared["tokens to TRL"], shared["peak to TRL"]) == (2, 4, 0.25)
    assert (shared["pairs per CPU second"], shared["tokens per pair"]) == (2, 50)
    # 300 tokens of 50 operations take 1.5 s at best.
    assert (trl["part of the bound"], shared["part of the bound"]) == (0.125, 0.5)
    # Results from before the bound was measured.
    del result["operations_a_second"]
    assert step_time.summary(result)[0]["part of the bound"] is None
