"""Diagnostics by hand counts, and what must hold for any pairs."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_reward.metrics import PairRecords, PreferenceSums, diagnostics
from hf_reward.metrics.diagnostics import calibration_error, length_metrics, margin_quantiles, pearson


CHOSEN = np.array([2.0, 0.0, 1.0, 3.0])
REJECTED = np.array([1.0, 1.0, 1.0, -1.0])
CHOSEN_TOKENS = np.array([10.0, 2.0, 3.0, 7.0])
REJECTED_TOKENS = np.array([4.0, 5.0, 6.0, 7.0])


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def test_a_hand_count() -> None:
    result = diagnostics(CHOSEN, REJECTED, CHOSEN_TOKENS, REJECTED_TOKENS, ["b", "a", "b", ""])
    # Margins 1, -1, 0, 4: confidence sigmoid(1) twice (right once), 1/2 once (a tie), sigmoid(4) once (right).
    calibration = (2 * (sigmoid(1) - 0.5) + 0 + (1 - sigmoid(4))) / 4
    assert result == pytest.approx(
        {
            "reward_margin_p5": -0.85,
            "reward_margin_p50": 0.5,
            "reward_margin_p95": 3.55,
            "calibration_error": calibration,
            "longer_wins": 1.5 / 4,
            "length_correlation": np.corrcoef(
                np.concatenate([CHOSEN, REJECTED]), np.concatenate([CHOSEN_TOKENS, REJECTED_TOKENS])
            )[0, 1],
            "accuracy_chosen_shorter": 0.25,
            "pairs_chosen_shorter": 2,
            "a_accuracy": 0.0,
            "a_pairs": 1,
            "b_accuracy": 0.75,
            "b_pairs": 2,
        }
    )


def test_without_lengths_and_subsets_there_are_fewer() -> None:
    assert set(diagnostics(CHOSEN, REJECTED)) == {
        *("reward_margin_p5", "reward_margin_p50", "reward_margin_p95"),
        "calibration_error",
    }
    assert diagnostics(np.zeros(0), np.zeros(0)) == {}


def test_pairs_that_are_not_finite_are_left_out_everywhere() -> None:
    chosen, rejected = np.append(CHOSEN, [np.nan, 1.0]), np.append(REJECTED, [0.0, np.inf])
    tokens = np.append(CHOSEN_TOKENS, [900.0, 900.0]), np.append(REJECTED_TOKENS, [1.0, 1.0])
    names = ["b", "a", "b", "", "a", "c"]
    assert diagnostics(chosen, rejected, *tokens, names) == diagnostics(
        CHOSEN, REJECTED, CHOSEN_TOKENS, REJECTED_TOKENS, names[:4]
    )
    assert diagnostics(np.array([np.nan]), np.array([0.0])) == {}


def test_where_no_chosen_side_is_shorter_or_nothing_varies() -> None:
    equal = length_metrics(np.array([1.0, 2.0]), np.array([0.0, 0.0]), np.array([3.0, 3.0]), np.array([3.0, 3.0]))
    assert equal == {"longer_wins": 0.5, "pairs_chosen_shorter": 0}
    assert pearson(np.array([1.0, 1.0]), np.array([1.0, 2.0])) is None
    assert pearson(np.array([1e-9, 3e-9]), np.array([5.0, 1.0])) == pytest.approx(-1)


def test_a_model_that_knows_its_own_errors_is_calibrated() -> None:
    # 3 of 4 right at a margin of log 3, which says 3/4.
    assert calibration_error(np.log(3) * np.array([1.0, 1.0, 1.0, -1.0])) == pytest.approx(0, abs=1e-12)
    assert calibration_error(np.array([-1e4, -1e4])) == 1.0
    assert calibration_error(np.array([1e4])) == 0.0


margins = st.lists(st.integers(-40, 40), min_size=1, max_size=30).map(lambda values: np.array(values) / 8)


@settings(max_examples=50, deadline=None)
@given(margins)
def test_what_holds_for_all_margins(values: np.ndarray) -> None:
    low, middle, high = margin_quantiles(values).values()
    assert values.min() <= low <= middle <= high <= values.max()
    error = calibration_error(values)
    assert 0 <= error <= 1
    assert calibration_error(values[::-1]) == pytest.approx(error, abs=1e-12)
    # One bin: the gap between overall accuracy and mean confidence, which no finer binning can undercut.
    overall = abs(np.mean((values > 0) + (values == 0) / 2) - np.mean(1 / (1 + np.exp(-np.abs(values)))))
    assert calibration_error(values, bins=1) == pytest.approx(overall, abs=1e-12)
    assert error >= overall - 1e-12


rows = st.lists(
    st.tuples(st.integers(-9, 9), st.integers(-9, 9), st.integers(1, 9), st.integers(1, 9), st.sampled_from("ab")),
    min_size=1,
    max_size=30,
)


@settings(max_examples=50, deadline=None)
@given(rows, st.lists(st.integers(0, 30), max_size=5))
def test_any_split_into_batches_gives_the_same_records(pairs: list[tuple], cuts: list[int]) -> None:
    records = PairRecords()
    edges = [0, *sorted(min(cut, len(pairs)) for cut in cuts), len(pairs)]
    for start, stop in itertools.pairwise(edges):
        part = pairs[start:stop]
        numbers = torch.tensor([row[:4] for row in part], dtype=torch.float32).reshape(-1, 4).T
        counted = torch.ones(len(part), dtype=torch.bool)
        records.add(numbers[0], numbers[1], counted, numbers[2], numbers[3], [row[4] for row in part])
    numbers = np.array([row[:4] for row in pairs], dtype=float).T
    whole = diagnostics(*numbers, [row[4] for row in pairs])
    assert records.compute() == whole
    # The subsets together are the whole.
    sums = PreferenceSums()
    sums.update(torch.from_numpy(numbers[0]), torch.from_numpy(numbers[1]), counted=torch.ones(len(pairs)))
    weighted = sum(whole.get(f"{name}_accuracy", 0) * whole.get(f"{name}_pairs", 0) for name in "ab")
    assert weighted == pytest.approx(sums.compute()["accuracy"] * len(pairs))


def test_pairs_that_do_not_count_are_left_out_of_the_records() -> None:
    records = PairRecords()
    records.add(
        torch.tensor([1.0, 5.0]), torch.zeros(2), counted=torch.tensor([True, False]), subsets=["math", "chat"]
    )
    result = records.compute()
    assert (result["reward_margin_p95"], result["math_pairs"]) == (1.0, 1)
    assert "chat_pairs" not in result
    assert "length_correlation" not in result
    records.reset()
    assert records.compute() == {}


def test_processes_bring_their_pairs_together(monkeypatch: pytest.MonkeyPatch) -> None:
    own, other = PairRecords(), PairRecords()
    own.add(torch.tensor([1.0, 2.0]), torch.zeros(2), torch.ones(2), torch.tensor([3, 3]), torch.tensor([1, 1]))
    parts: list[tuple] = []
    monkeypatch.setattr("hf_reward.metrics.records.gather_object", lambda own: parts.extend(own) or own)
    other.add(torch.tensor([9.0]), torch.zeros(1), torch.ones(1), torch.tensor([1]), torch.tensor([5]))
    other.compute()
    monkeypatch.setattr("hf_reward.metrics.records.gather_object", lambda own: own + parts)
    result = own.compute()
    assert result["reward_margin_p50"] == 2.0
    assert result["pairs_chosen_shorter"] == 1
    assert result["longer_wins"] == pytest.approx(2 / 3)
