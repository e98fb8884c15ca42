"""Which loss a batch gets: the settings, and what the data says of its pairs."""

import math
from typing import Any

import pytest
import torch

from hf_reward import RewardConfig
from hf_reward.errors import ConfigurationError
from hf_reward.losses import (
    bradley_terry_loss,
    plackett_luce_loss,
    rao_kupper_loss,
    scaled_by_margin,
    soft_preference_loss,
)
from hf_reward.training.objective import check_loss_columns, outputs_of_rewards


CHOSEN, REJECTED = torch.tensor([2.0, 0.5, 1.0]), torch.tensor([1.0, 1.5, -1.0])
REWARDS = torch.stack([CHOSEN, REJECTED], dim=1).flatten()


def config(**settings: Any) -> RewardConfig:
    return RewardConfig(output_dir="unused", report_to="none", use_cpu=True, **settings)


def losses(rewards: torch.Tensor, sizes: tuple[int, ...], settings: dict[str, Any], **columns: Any) -> torch.Tensor:
    return outputs_of_rewards(rewards, {"group_sizes": sizes, **columns}, config(**settings)).losses


def pairs(settings: dict[str, Any] | None = None, **columns: Any) -> torch.Tensor:
    return losses(REWARDS, (2, 2, 2), settings or {}, **columns)


MARGIN = torch.tensor([0.5, 0.0, 2.0])
PROBABILITY = torch.tensor([1.0, 0.75, 0.6])
TIE = torch.tensor([False, True, False])
WIN = bradley_terry_loss(CHOSEN, REJECTED)
TIED = torch.tensor([1.0, 0.5, 1.0])


@pytest.mark.parametrize(
    ("settings", "columns", "expected"),
    [
        ({}, {}, WIN),
        ({}, {"margin": MARGIN}, bradley_terry_loss(CHOSEN, REJECTED, MARGIN)),
        ({"margin_mode": "scale"}, {"margin": MARGIN}, scaled_by_margin(WIN, MARGIN)),
        ({}, {"chosen_probability": PROBABILITY}, soft_preference_loss(CHOSEN, REJECTED, PROBABILITY)),
        (
            {},
            {"chosen_probability": PROBABILITY, "margin": MARGIN},
            soft_preference_loss(CHOSEN, REJECTED, PROBABILITY, MARGIN),
        ),
        ({"label_smoothing": 0.1}, {}, soft_preference_loss(CHOSEN, REJECTED, torch.full((3,), 0.9))),
        (
            {"label_smoothing": 0.1},
            {"chosen_probability": PROBABILITY},
            soft_preference_loss(CHOSEN, REJECTED, torch.tensor([0.9, 0.7, 0.58])),
        ),
        ({}, {"tie": TIE}, soft_preference_loss(CHOSEN, REJECTED, TIED)),
        (
            {"label_smoothing": 0.1},
            {"tie": TIE},
            soft_preference_loss(CHOSEN, REJECTED, torch.tensor([0.9, 0.5, 0.9])),
        ),
        ({"tie_threshold": 2.0}, {"tie": TIE}, rao_kupper_loss(CHOSEN, REJECTED, 2.0, TIE)),
        (
            {"tie_threshold": 2.0},
            {"tie": TIE, "chosen_probability": PROBABILITY, "margin": MARGIN},
            rao_kupper_loss(CHOSEN, REJECTED, 2.0, TIE, PROBABILITY, MARGIN),
        ),
        (
            {"margin_mode": "scale"},
            {"margin": MARGIN, "tie": TIE},
            soft_preference_loss(CHOSEN, REJECTED, TIED) * torch.tensor([0.5, 1.0, 2.0]),
        ),
        ({"loss_type": "plackett_luce"}, {}, WIN),
        (
            {"loss_type": "regression"},
            {"scores": torch.tensor([2.0, 2.0, 0.5, 0.5, 0.0, 0.0])},
            torch.tensor([0.5, 0.5, 1.0]),
        ),
        ({"center_rewards_coefficient": 0.1}, {}, WIN + 0.1 * torch.tensor([9.0, 4.0, 0.0])),
    ],
)
def test_the_loss_that_pairs_get(settings: dict[str, Any], columns: dict[str, Any], expected: torch.Tensor) -> None:
    torch.testing.assert_close(pairs(settings, **columns), expected)


def test_an_unlikely_chosen_side_is_turned_round() -> None:
    batch = {"group_sizes": (2, 2, 2), "chosen_probability": torch.tensor([0.25, 0.5, 1.0])}
    outputs = outputs_of_rewards(REWARDS, batch, config())
    assert outputs.chosen_rewards.tolist() == [1.0, 0.5, 1.0]
    assert outputs.rejected_rewards.tolist() == [2.0, 1.5, -1.0]
    assert outputs.decided.tolist() == [True, False, True]
    expected = soft_preference_loss(CHOSEN, REJECTED, batch["chosen_probability"])
    torch.testing.assert_close(outputs.losses, expected)


GROUP = torch.tensor([3.0, 1.0, 2.0, 0.0])


def nll(difference: float) -> float:
    return math.log1p(math.exp(-difference))


def test_a_ranked_group_is_a_mean_over_pairs_or_one_ranking() -> None:
    mean = sum(nll(d) for d in (2, 1, 3, -1, 1, 2)) / 6
    assert losses(GROUP, (4,), {}).tolist() == pytest.approx([mean], abs=1e-6)
    ranking = losses(GROUP, (4,), {"loss_type": "plackett_luce"})
    torch.testing.assert_close(ranking, plackett_luce_loss(GROUP, (4,)))


def test_equal_scores_in_a_group_are_no_comparison() -> None:
    scores = torch.tensor([5.0, 4.0, 4.0, 1.0])
    batch = {"group_sizes": (4,), "scores": scores}
    outputs = outputs_of_rewards(GROUP, batch, config())
    assert outputs.decided.tolist() == [True, True, True, False, True, True]
    assert outputs.losses.tolist() == pytest.approx([sum(nll(d) for d in (2, 1, 3, 1, 2)) / 5], abs=1e-6)


def test_equal_scores_that_the_data_calls_a_tie_are_one() -> None:
    columns = {"scores": torch.tensor([4.0, 4.0]), "tie": torch.tensor([True])}
    tied = losses(torch.tensor([1.0, 0.0]), (2,), {}, **columns)
    assert tied.tolist() == pytest.approx([(nll(1) + nll(-1)) / 2], abs=1e-6)


def test_regression_is_a_mean_over_the_completions_of_a_group() -> None:
    scores = torch.tensor([3.0, 2.0, 2.0, 2.0, 1.0, 0.0])
    result = losses(torch.cat([GROUP, GROUP[:2]]), (4, 2), {"loss_type": "regression"}, scores=scores)
    assert result.tolist() == [(0 + 1 + 0 + 4) / 4, (4 + 1) / 2]


@pytest.mark.parametrize(
    ("settings", "columns", "name", "message"),
    [
        ({"loss_type": "regression"}, ["margin"], "eval", "eval: `loss_type: regression` needs a `scores` column"),
        ({"loss_type": "plackett_luce"}, ["margin"], "train", "has no use for the column `margin`"),
        ({"loss_type": "plackett_luce"}, ["tie"], "train", "has no use for the column `tie`"),
        (
            {"loss_type": "regression"},
            ["scores", "chosen_probability"],
            "x",
            "use for the column `chosen_probability`",
        ),
        ({"margin_mode": "scale"}, ["weight"], "train", "train: `margin_mode: scale` multiplies the loss"),
    ],
)
def test_columns_that_do_not_fit_the_loss_are_refused(settings, columns, name, message) -> None:
    with pytest.raises(ConfigurationError, match=message):
        check_loss_columns(columns, config(**settings), name)


def test_columns_that_fit_the_loss() -> None:
    check_loss_columns(["margin", "tie", "chosen_probability", "scores"], config(), "train")
    check_loss_columns(["scores", "weight"], config(loss_type="regression"), "train")
    check_loss_columns(["weight"], config(margin_mode="scale"), "eval")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss_type": "hinge"}, "`loss_type`: found 'hinge'; expected bradley_terry or plackett_luce or regression"),
        ({"margin_mode": "add"}, "`margin_mode`: found 'add'"),
        ({"label_smoothing": 0.5}, "`label_smoothing`: found 0.5; expected a number of at least 0 and below 0.5"),
        ({"label_smoothing": -0.1}, "`label_smoothing`: found -0.1"),
        ({"tie_threshold": 1.0}, "`tie_threshold`: found 1.0; expected a number above 1"),
        ({"label_smoothing_factor": 0.1}, "for preference pairs say `label_smoothing`"),
        ({"loss_type": "plackett_luce", "tie_threshold": 2.0}, "but `loss_type: plackett_luce` does not use it"),
        (
            {"loss_type": "regression", "label_smoothing": 0.1},
            "`label_smoothing`: found 0.1, but `loss_type: regression",
        ),
        ({"loss_type": "regression", "center_rewards_coefficient": 0.1}, "fix the level of the rewards"),
        ({"eval_sample_pairs": -1}, "`eval_sample_pairs`: found -1"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        config(**settings)
