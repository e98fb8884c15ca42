"""Batches of a token budget, and orders in which lengths are grouped."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_reward import ConfigurationError
from hf_reward.data.batching import WINDOW, LengthGroupedSampler, TokenBudgetSampler, row_tokens


def samplers(tokens: list[int], budget: int, padded: bool, processes: int, epoch: int = 0, seed: int = 1) -> list:
    found = [TokenBudgetSampler(tokens, budget, padded, seed, rank, processes) for rank in range(processes)]
    for sampler in found:
        sampler.set_epoch(epoch)
    return found


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(1, 100), min_size=1, max_size=200),
    st.integers(100, 400),
    st.booleans(),
    st.integers(1, 3),
    st.integers(0, 3),
)
def test_every_row_is_used_once_within_the_budget_on_every_process(
    tokens: list[int], budget: int, padded: bool, processes: int, epoch: int
) -> None:
    # Enough rows for every process to get as many batches as the budget makes necessary.
    tokens = tokens + [1] * (processes * (2 * -(-sum(tokens) // budget) + 2))
    ours = samplers(tokens, budget, padded, processes, epoch)
    batches = [list(sampler) for sampler in ours]
    assert {len(part) for part in batches} == {len(sampler) for sampler in ours} == {len(batches[0])}
    assert sorted(row for part in batches for batch in part for row in batch) == list(range(len(tokens)))
    for batch in (batch for part in batches for batch in part):
        assert batch
        taken = [tokens[row] for row in batch]
        assert (max(taken) * len(taken) if padded else sum(taken)) <= budget
    # The number of batches is the same in every epoch.
    assert len(samplers(tokens, budget, padded, processes, epoch + 1)[0]) == len(ours[0])


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    tokens = [int(n) for n in np.random.default_rng(0).integers(10, 100, 200)]
    for padded in (False, True):
        drawn = {
            (seed, epoch): [tuple(batch) for batch in samplers(tokens, 800, padded, 1, epoch, seed)[0]]
            for seed in (1, 2)
            for epoch in (0, 1)
        }
        again = [tuple(batch) for batch in samplers(tokens, 800, padded, 1, 1, 2)[0]]
        assert drawn[2, 1] == again
        assert len({tuple(order) for order in drawn.values()}) == 4


def test_batches_without_padding_are_nearly_full_alike_and_mixed() -> None:
    tokens = [int(n) for n in np.random.default_rng(0).integers(10, 200, 1000)]
    batches = list(TokenBudgetSampler(tokens, 4000, False, seed=0))
    sums = [sum(tokens[row] for row in batch) for batch in batches]
    # The optimum is 26.6 batches of 4,000 tokens.
    assert len(batches) == 28
    assert min(sums) > 0.9 * max(sums)
    for batch in batches:
        lengths = [tokens[row] for row in batch]
        assert min(lengths) < 30
        assert max(lengths) > 180


def test_processes_compute_equally_much_at_the_same_time() -> None:
    tokens = [int(n) for n in np.random.default_rng(0).integers(10, 200, 300)]

    def cost(batch: list[int], padded: bool) -> int:
        taken = [tokens[row] for row in batch]
        return max(taken) * len(taken) if padded else sum(taken)

    for padded in (False, True):
        steps = zip(*samplers(tokens, 2000, padded, 2), strict=True)
        costs = [[cost(batch, padded) for batch in batches] for batches in steps]
        # The slower process decides: what it computes, on both, is hardly more than all.
        assert 2 * sum(map(max, costs)) < 1.1 * sum(map(sum, costs))


@pytest.mark.parametrize("padded", [False, True])
def test_a_row_beyond_the_budget_is_named(padded: bool) -> None:
    with pytest.raises(ConfigurationError, match="found 50, but row 1 takes 60 tokens"):
        TokenBudgetSampler([10, 60], 50, padded, seed=0)


def test_too_few_rows_for_the_processes_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="1 rows cannot be divided among 2 processes"):
        TokenBudgetSampler([10], 50, False, seed=0, processes=2)


def test_grouped_lengths_hold_less_padding_and_still_mix() -> None:
    lengths = np.random.default_rng(0).integers(10, 500, 2048).tolist()
    order = list(LengthGroupedSampler(lengths, batch_size=16, seed=0))
    assert sorted(order) == list(range(2048))
    assert order != list(LengthGroupedSampler(lengths, batch_size=16, seed=1))
    batches = [[lengths[row] for row in order[start : start + 16]] for start in range(0, 2048, 16)]
    padded = sum(16 * max(batch) for batch in batches)
    assert padded < 1.2 * sum(lengths)  # at random it would be 1.85 times
    assert np.mean([max(batch) - min(batch) for batch in batches]) > 30
    assert WINDOW == 8


def test_only_the_last_batch_is_short() -> None:
    order = list(LengthGroupedSampler([100, 1, 100, 1, 100], batch_size=2, seed=0))
    batches = [order[start : start + 2] for start in range(0, 5, 2)]
    # Five rows are one window, in which the three long ones come before the two short ones.
    assert sorted(sorted(row % 2 for row in batch) for batch in batches) == [[0, 0], [0, 1], [1]]
    assert [len(batch) for batch in batches] == [2, 2, 1]


def test_tokens_of_rows() -> None:
    rows = [
        {"chosen_input_ids": [1, 2, 3], "rejected_input_ids": [1, 4]},
        {"completion_input_ids": [[1, 2], [1, 2, 3, 4], [5]]},
    ]
    assert row_tokens(rows, "shared_prompt") == [4, 7]
    assert row_tokens(rows, "packed") == [5, 7]
    assert row_tokens(rows, "padded") == [9, 12]  # three rows each, as in the larger group
    assert row_tokens(rows, "padded", multiple=4) == [12, 12]
