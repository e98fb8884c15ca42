"""Tests of the choice of pairs worth reading."""

import math

import pytest

from hf_reward.evaluation.pairs import ScoredPair, best_and_worst, sample_indices


def pair(margin: float, index: int | None = None) -> ScoredPair:
    return ScoredPair("p", "c", "r", margin, 0.0, index)


def test_margin_is_chosen_minus_rejected():
    assert ScoredPair("p", "c", "r", 1.5, -0.25).margin == 1.75


def test_largest_margins_first_and_smallest_margins_first():
    pairs = [pair(margin) for margin in (0.5, -3.0, 2.0, 0.0, -1.0)]
    best, worst = best_and_worst(pairs, count=2)
    assert [p.margin for p in best] == [2.0, 0.5]
    assert [p.margin for p in worst] == [-3.0, -1.0]


def test_equal_margins_keep_the_order_of_their_index_whatever_the_order_given():
    pairs = [pair(1.0, index) for index in (3, 0, 2, 1)]
    best, worst = best_and_worst(pairs, count=3)
    assert [p.index for p in best] == [0, 1, 2]
    assert [p.index for p in worst] == [0, 1, 2]


def test_equal_margins_without_index_keep_their_position():
    pairs = [ScoredPair(name, "c", "r", 1.0, 0.0) for name in "abc"]
    best, worst = best_and_worst(pairs, count=2)
    assert [p.prompt for p in best] == ["a", "b"] == [p.prompt for p in worst]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_margin_that_is_not_finite_is_left_out(bad):
    best, worst = best_and_worst([pair(1.0), pair(bad), pair(-1.0)])
    assert [p.margin for p in best] == [1.0, -1.0]
    assert [p.margin for p in worst] == [-1.0, 1.0]


def test_no_pairs_give_two_empty_lists():
    assert best_and_worst([]) == ([], [])


def test_samples_are_the_ends_of_the_order_and_a_seeded_choice():
    margins = [0.5, -3.0, math.nan, 2.0, 0.0]
    samples = sample_indices(margins, count=2, seed=1)
    assert (samples["best"], samples["worst"]) == ([3, 0], [1, 4])
    assert samples["random"] == sample_indices([0.0] * 5, count=2, seed=1)["random"]
    assert len({tuple(sample_indices(margins, 2, seed)["random"]) for seed in range(9)}) > 2


def test_few_pairs_are_all_shown_and_none_where_none_are_asked_for():
    assert sample_indices([1.0], count=3, seed=0) == {"best": [0], "worst": [0], "random": [0]}
    assert sample_indices([1.0, 2.0], count=0, seed=0) == {"best": [], "worst": [], "random": []}
