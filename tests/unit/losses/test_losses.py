"""Losses equal their closed forms, in value and gradient."""

import math

import pytest
import torch

from hf_reward.losses import bradley_terry_loss, group_pairs, mean_over_group, reward_centering_penalty


def test_bradley_terry_values() -> None:
    chosen = torch.tensor([0.0, 1.0, -1.0, 100.0, -100.0])
    rejected = torch.zeros(5)
    expected = [math.log(2), math.log1p(math.exp(-1)), math.log1p(math.e), 0.0, 100.0]
    assert bradley_terry_loss(chosen, rejected).tolist() == pytest.approx(expected, abs=1e-6)


def test_bradley_terry_gradient_is_minus_the_probability_of_being_wrong() -> None:
    chosen = torch.tensor([0.3, -2.0, 5.0], dtype=torch.float64, requires_grad=True)
    rejected = torch.tensor([0.1, 1.0, 4.0], dtype=torch.float64, requires_grad=True)
    margin = torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64)
    bradley_terry_loss(chosen, rejected, margin).sum().backward()
    wrong = torch.sigmoid(-(chosen - rejected - margin)).detach()
    torch.testing.assert_close(chosen.grad, -wrong)
    torch.testing.assert_close(rejected.grad, wrong)


@pytest.mark.parametrize("difference", [1e4, -1e4])
def test_bradley_terry_is_stable_far_out(difference: float) -> None:
    chosen = torch.tensor([difference], requires_grad=True)
    loss = bradley_terry_loss(chosen, torch.zeros(1))
    loss.sum().backward()
    assert loss.item() == max(-difference, 0.0)
    assert chosen.grad.item() == (0.0 if difference > 0 else -1.0)


def test_bradley_terry_raises_half_precision() -> None:
    # In bfloat16 the rewards 16.0 and 16.0625 are the same number; the loss is at least taken in float32.
    loss = bradley_terry_loss(torch.tensor([1.0], dtype=torch.bfloat16), torch.tensor([0.0], dtype=torch.bfloat16))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log1p(math.exp(-1)), abs=1e-7)


def test_the_difference_alone_counts_and_the_margin_shifts_it() -> None:
    one = bradley_terry_loss(torch.tensor([3.0]), torch.tensor([1.0]), torch.tensor([0.5]))
    two = bradley_terry_loss(torch.tensor([11.5]), torch.tensor([10.0]))
    torch.testing.assert_close(one, two)


def test_centering_penalty() -> None:
    penalty = reward_centering_penalty(torch.tensor([1.0, -2.0]), torch.tensor([3.0, 2.0]))
    assert penalty.tolist() == [16.0, 0.0]


def test_a_ranked_group_is_the_mean_over_its_pairs() -> None:
    rewards = torch.tensor([2.0, 1.0, 3.0, 0.0, -1.0])  # a pair, then three ranked completions
    better, worse, group = group_pairs([2, 3])
    losses = mean_over_group(bradley_terry_loss(rewards[better], rewards[worse]), group, 2)

    def nll(difference: float) -> float:
        return math.log1p(math.exp(-difference))

    assert losses.tolist() == pytest.approx([nll(1.0), (nll(3.0) + nll(4.0) + nll(1.0)) / 3], abs=1e-6)
