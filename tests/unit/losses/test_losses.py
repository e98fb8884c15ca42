"""Losses equal their closed forms, in value and gradient."""

import math

import pytest
import torch

from hf_reward.losses import (
    bradley_terry_loss,
    group_pairs,
    mean_over_group,
    plackett_luce_loss,
    rao_kupper_loss,
    regression_loss,
    reward_centering_penalty,
    scaled_by_margin,
    smoothed_probability,
    soft_preference_loss,
)


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
    assert losses.tolist() == pytest.approx([nll(1.0), (nll(3.0) + nll(4.0) + nll(1.0)) / 3], abs=1e-6)


def nll(difference: float) -> float:
    return math.log1p(math.exp(-difference))


def test_soft_preference_values_and_where_it_is_smallest() -> None:
    chosen = torch.tensor([1.0, 1.0, 1.0])
    losses = soft_preference_loss(chosen, torch.zeros(3), torch.tensor([1.0, 0.0, 0.75]))
    assert losses.tolist() == pytest.approx([nll(1), nll(-1), 0.75 * nll(1) + 0.25 * nll(-1)], abs=1e-6)
    best = torch.tensor([math.log(3)], requires_grad=True)
    soft_preference_loss(best, torch.zeros(1), torch.tensor([0.75])).sum().backward()
    assert best.grad.item() == pytest.approx(0, abs=1e-7)


def test_certain_preference_is_bradley_terry() -> None:
    chosen, rejected, margin = torch.randn(3, 20, generator=torch.Generator().manual_seed(0))
    soft = soft_preference_loss(chosen, rejected, torch.ones(20), margin)
    torch.testing.assert_close(soft, bradley_terry_loss(chosen, rejected, margin), rtol=0, atol=0)


def test_label_smoothing_mixes_the_two_labels() -> None:
    smoothed = smoothed_probability(torch.tensor([1.0, 0.0, 0.5]), 0.2)
    assert smoothed.tolist() == pytest.approx([0.8, 0.2, 0.5])
    loss = soft_preference_loss(torch.tensor([2.0]), torch.zeros(1), smoothed[:1])
    assert loss.item() == pytest.approx(0.8 * nll(2) + 0.2 * nll(-2), abs=1e-6)


def test_scaled_margin_multiplies_the_loss() -> None:
    losses = scaled_by_margin(bradley_terry_loss(torch.tensor([1.0, 1.0]), torch.zeros(2)), torch.tensor([3.0, 0.0]))
    assert losses.tolist() == pytest.approx([3 * nll(1), 0.0], abs=1e-6)


def test_rao_kupper_wins_and_ties() -> None:
    tie = torch.tensor([False, True, False])
    losses = rao_kupper_loss(
        torch.tensor([1.0, 1.0, 1.0]), torch.zeros(3), 2.0, tie, chosen_probability=torch.tensor([1.0, 1.0, 0.25])
    )
    win, loss = nll(1 - math.log(2)), nll(-1 - math.log(2))
    assert losses.tolist() == pytest.approx([win, win + loss - math.log(3), 0.25 * win + 0.75 * loss], abs=1e-6)
    without = rao_kupper_loss(torch.tensor([1.0]), torch.zeros(1), 2.0, margin=torch.tensor([1.0]))
    assert without.item() == pytest.approx(nll(-math.log(2)), abs=1e-6)


def test_plackett_luce_is_bradley_terry_for_pairs_and_a_chain_of_choices_for_more() -> None:
    rewards = torch.tensor([2.0, 1.5, 3.0, 0.0, -1.0, 7.0, 7.0])
    losses = plackett_luce_loss(rewards, (2, 3, 2))
    assert losses[0].item() == bradley_terry_loss(rewards[:1], rewards[1:2]).item()
    first = math.log(math.exp(3) + 1 + math.exp(-1)) - 3
    assert losses.tolist() == pytest.approx([nll(0.5), first + nll(1), math.log(2)], abs=1e-6)


def test_plackett_luce_gradient_of_uneven_groups_stays_in_its_group() -> None:
    rewards = torch.tensor([1.0, 0.0, 2.0, 1.0, 0.0, -1.0], requires_grad=True)
    plackett_luce_loss(rewards, (2, 4))[0].backward()
    wrong = 1 / (1 + math.e)
    assert rewards.grad.tolist() == pytest.approx([-wrong, wrong, 0, 0, 0, 0], abs=1e-7)


def test_regression_is_the_squared_error() -> None:
    rewards = torch.tensor([1.0, -2.0], requires_grad=True)
    losses = regression_loss(rewards, torch.tensor([4.0, -2.0]))
    losses.sum().backward()
    assert losses.tolist() == [9.0, 0.0]
    assert rewards.grad.tolist() == [-6.0, 0.0]


def test_pairs_that_do_not_count_leave_the_mean_of_their_group() -> None:
    values = torch.tensor([1.0, 5.0, 9.0, 4.0])
    mean = mean_over_group(values, torch.tensor([0, 0, 0, 1]), 2, counted=torch.tensor([True, False, True, False]))
    assert mean.tolist() == [5.0, 0.0]


TIES = torch.tensor([False, True])
ONE_TENTH = torch.full((2,), 0.9)
# Loss of a win and of a tie (where the loss knows ties) at a difference d that is huge and positive.
FAR_OUT = {
    "soft": (lambda c, r: soft_preference_loss(c, r, ONE_TENTH), [1e3, 1e3]),
    "rao_kupper": (lambda c, r: rao_kupper_loss(c, r, 2.0, TIES), [0.0, 1e4 + math.log(2) - math.log(3)]),
    "plackett_luce": (lambda c, r: plackett_luce_loss(torch.stack([c, r], 1).flatten(), (2, 2)), [0.0, 0.0]),
    "plackett_luce of 4": (lambda c, r: plackett_luce_loss(torch.cat([c, r]), (4,)), [math.log(2)] * 2),
}


@pytest.mark.parametrize("name", FAR_OUT)
def test_losses_are_stable_far_out(name: str) -> None:
    loss, expected = FAR_OUT[name]
    chosen = torch.full((2,), 1e4, requires_grad=True)
    rejected = torch.zeros(2, requires_grad=True)
    values = loss(chosen, rejected)
    values.sum().backward()
    if name == "plackett_luce of 4":
        assert values.tolist() == pytest.approx([2 * math.log(2)], rel=1e-6)
    else:
        assert values.tolist() == pytest.approx(expected, rel=1e-6)
    assert torch.isfinite(torch.cat([chosen.grad, rejected.grad])).all()
    backwards = loss(rejected.detach(), chosen.detach())
    assert torch.isfinite(backwards).all()
    assert backwards.max() >= 9e3


HALF = torch.tensor([1.0, 0.25], dtype=torch.bfloat16)


@pytest.mark.parametrize(
    "loss",
    [
        lambda: soft_preference_loss(HALF, HALF, HALF),
        lambda: rao_kupper_loss(HALF, HALF, 2.0),
        lambda: plackett_luce_loss(HALF, (2,)),
        lambda: regression_loss(HALF, HALF),
        lambda: reward_centering_penalty(HALF, HALF),
    ],
)
def test_half_precision_is_raised(loss) -> None:
    assert loss().dtype == torch.float32
