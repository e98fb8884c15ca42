"""The losses against other people's answers: finite differences, sums over outcomes, and scikit-learn."""

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from hf_reward.losses import (
    bradley_terry_loss,
    mean_over_group,
    plackett_luce_loss,
    rao_kupper_loss,
    regression_loss,
    reward_centering_penalty,
    scaled_by_margin,
    smoothed_probability,
    soft_preference_loss,
)


TIE = torch.tensor([False, True, False, True])
MARGIN = torch.tensor([0.0, 0.5, 2.0, 1.0], dtype=torch.float64)
PROBABILITY = torch.tensor([1.0, 0.5, 0.8, 0.6], dtype=torch.float64)
LOSSES = {
    "bradley_terry": bradley_terry_loss,
    "margin": lambda c, r: bradley_terry_loss(c, r, MARGIN),
    "scaled": lambda c, r: scaled_by_margin(bradley_terry_loss(c, r), MARGIN),
    "soft": lambda c, r: soft_preference_loss(c, r, PROBABILITY, MARGIN),
    "smoothed": lambda c, r: soft_preference_loss(c, r, smoothed_probability(torch.ones_like(c), 0.1)),
    "rao_kupper": lambda c, r: rao_kupper_loss(c, r, 1.5, TIE, PROBABILITY, MARGIN),
    "plackett_luce": lambda c, r: plackett_luce_loss(torch.cat([c, r]), (2, 3, 3)),
    "regression": lambda c, r: regression_loss(c, r.detach()),
    "centering": reward_centering_penalty,
    "group mean": lambda c, r: mean_over_group(bradley_terry_loss(c, r), torch.tensor([0, 0, 1, 1]), 2, TIE | True),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_equal_finite_differences(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    sides = [torch.randn(4, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    if name == "regression":
        sides[1].requires_grad_(False)
    assert torch.autograd.gradcheck(LOSSES[name], sides)


@pytest.mark.parametrize("threshold", [1.01, 2.0, 20.0])
@pytest.mark.parametrize("difference", [0.0, 0.7, -3.0])
def test_rao_kupper_outcomes_have_probabilities_that_add_up_to_one(threshold: float, difference: float) -> None:
    a, b = torch.tensor([difference], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    win = rao_kupper_loss(a, b, threshold)
    loss = rao_kupper_loss(b, a, threshold)
    tie = rao_kupper_loss(a, b, threshold, torch.tensor([True]))
    assert sum(math.exp(-x.item()) for x in (win, loss, tie)) == pytest.approx(1, abs=1e-12)
    strength = math.exp(difference)
    assert math.exp(-win.item()) == pytest.approx(strength / (strength + threshold), rel=1e-12)
    tied = (threshold**2 - 1) * strength / ((strength + threshold) * (1 + threshold * strength))
    assert math.exp(-tie.item()) == pytest.approx(tied, rel=1e-12)


def test_plackett_luce_probabilities_of_all_rankings_add_up_to_one() -> None:
    rewards = torch.tensor([0.3, -1.0, 2.0, 0.1], dtype=torch.float64)
    orders = list(itertools.permutations(range(4)))
    losses = plackett_luce_loss(torch.cat([rewards[list(order)] for order in orders]), (4,) * len(orders))
    assert torch.exp(-losses).sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_bradley_terry_on_a_linear_model_is_logistic_regression_on_differences(weighted: bool) -> None:
    random = np.random.default_rng(0)
    chosen, rejected = random.normal(size=(2, 200, 5))
    # The true weights turn only some of the pairs, so that the likelihood has a maximum.
    flip = random.random(200) > 1 / (1 + np.exp(-(chosen - rejected) @ np.array([1.0, -2.0, 0.5, 0.0, 0.3])))
    chosen[flip], rejected[flip] = rejected[flip], chosen[flip].copy()
    weight = random.integers(1, 4, size=200).astype(float) if weighted else np.ones(200)

    head = torch.nn.Linear(5, 1, bias=False, dtype=torch.float64)
    features = torch.from_numpy(np.stack([chosen, rejected]))
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=200, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        losses = bradley_terry_loss(*head(features).squeeze(-1))
        loss = (torch.from_numpy(weight) * losses).sum() / weight.sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    # Both labels must occur, so every difference stands there once with either sign.
    differences = np.concatenate([chosen - rejected, rejected - chosen])
    labels = np.repeat([1, 0], 200)
    oracle = LogisticRegression(fit_intercept=False, C=np.inf, tol=1e-10, max_iter=1000)
    oracle.fit(differences, labels, sample_weight=np.tile(weight, 2))
    assert head.weight[0].tolist() == pytest.approx(oracle.coef_[0].tolist(), abs=1e-4)
    assert head.weight[0].norm().item() > 1
