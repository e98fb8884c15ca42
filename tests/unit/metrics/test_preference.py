"""Metrics are sums and counts, whatever the split."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_reward.metrics import PreferenceSums
from hf_reward.metrics.preference import NAMES


def add(sums: PreferenceSums, chosen: list[float], rejected: list[float], counted: list[float] | None = None) -> None:
    mask = torch.ones(len(chosen)) if counted is None else torch.tensor(counted)
    sums.update(torch.tensor(chosen), torch.tensor(rejected), counted=mask)


def test_a_hand_count() -> None:
    sums = PreferenceSums()
    add(sums, [2.0, 1.0], [1.0, 1.0])
    add(sums, [0.0], [4.0])
    assert sums.compute() == pytest.approx(
        {
            "accuracy": 1.5 / 3,
            "tie_rate": 1 / 3,
            "reward_margin": (1 + 0 - 4) / 3,
            "chosen_reward": 1.0,
            "rejected_reward": 2.0,
            "reward_mean": 1.5,
            "reward_std": torch.tensor([2.0, 1, 0, 1, 1, 4]).std(unbiased=False).item(),
            "pairs": 3,
            "tokens": 0,
        }
    )


def test_the_loss_is_weighted_and_repeated_rows_count_nowhere() -> None:
    sums = PreferenceSums()
    sums.update(
        torch.tensor([1.0, 5.0, 9.0]),
        torch.tensor([0.0, 6.0, 0.0]),
        counted=torch.tensor([1, 1, 0]),
        loss=torch.tensor([0.5, 2.0, 7.0]),
        weight=torch.tensor([1.0, 3.0, 0.0]),
        tokens=torch.tensor(12),
    )
    result = sums.compute()
    assert result["loss"] == (0.5 + 3 * 2.0) / 4
    assert result["accuracy"] == 0.5
    assert result["pairs"] == 2
    assert result["tokens"] == 12


def test_nothing_seen_is_no_metric() -> None:
    assert PreferenceSums().compute() == {}


rewards = st.lists(st.tuples(st.integers(-50, 50), st.integers(-50, 50)), min_size=1, max_size=40)


@settings(max_examples=50, deadline=None)
@given(rewards, st.lists(st.integers(0, 40), max_size=6))
def test_any_split_into_batches_and_ranks_gives_the_same_metrics(
    pairs: list[tuple[int, int]], cuts: list[int]
) -> None:
    values = torch.tensor(pairs) / 8
    whole = PreferenceSums()
    whole.update(values[:, 0], values[:, 1], counted=torch.ones(len(pairs)))
    edges = [0, *sorted(min(cut, len(pairs)) for cut in cuts), len(pairs)]
    ranks = [PreferenceSums(), PreferenceSums()]
    for number, (start, stop) in enumerate(itertools.pairwise(edges)):
        part = values[start:stop]
        ranks[number % 2].update(part[:, 0], part[:, 1], counted=torch.ones(len(part)))
    empty = torch.zeros(len(NAMES), dtype=torch.float64)
    other = empty if ranks[1]._sums is None else ranks[1]._sums
    if ranks[0]._sums is None:
        ranks[0]._sums = empty
    assert ranks[0].compute(reduce=lambda sums: sums + other) == pytest.approx(whole.compute())


def test_ties_of_the_data_count_in_the_loss_alone() -> None:
    sums = PreferenceSums()
    chosen, rejected, weight = torch.tensor([1.0, 5.0]), torch.tensor([0.0, 9.0]), torch.ones(2)
    decided = torch.tensor([True, False])
    sums.update(chosen, rejected, torch.ones(2), loss=torch.tensor([1.0, 2.0]), weight=weight, decided=decided)
    result = sums.compute()
    assert (result["accuracy"], result["reward_margin"], result["pairs"], result["undecided_pairs"]) == (
        1.0,
        1.0,
        1,
        1,
    )
    assert result["loss"] == 1.5
    alone = PreferenceSums()
    alone.update(chosen, rejected, torch.ones(2), loss=weight, weight=weight, decided=torch.zeros(2))
    assert alone.compute() == {"loss": 1.0, "undecided_pairs": 2, "pairs": 0, "tokens": 0}
