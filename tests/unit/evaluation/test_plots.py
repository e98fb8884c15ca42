"""Tests of the figures: what is drawn, what is left out, and that a file is whole or absent."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from hf_reward.evaluation import plots


PNG = b"\x89PNG\r\n\x1a\n"
HISTORY = [
    {"step": 10, "loss": 0.7, "accuracy": 0.5, "reward_margin": 0.0, "learning_rate": 1e-3, "num_pairs": 320},
    {"step": 20, "loss": 0.4, "accuracy": 0.8, "reward_margin": 1.5},
    {"step": 20, "eval_loss": 0.5, "eval_accuracy": 0.75, "eval_reward_margin": 1.0, "eval_runtime": 0.1},
    {"step": 20, "train_runtime": 3.0, "train_loss": 0.55},
]
TOKENS = {
    "prompt": {"mean": 20.1, "p50": 20, "p95": 28, "max": 30},
    "chosen": {"mean": 60.0, "p50": 55, "p95": 120, "max": 240},
    "rejected": {"mean": 58.5, "p50": 50, "p95": 100, "max": 1251},
}
REPORT = {"train": {"kept": 1990, "tokens": TOKENS, "max_length": 1024}, "eval": {"kept": 1, "tokens": TOKENS}}


def curves(figure: Figure, panel: int) -> dict[str, list[tuple[float, float]]]:
    """The labelled curves of a panel as (x, y) points."""
    lines = [line for line in figure.axes[panel].lines if not line.get_label().startswith("_")]
    return {line.get_label(): [(float(x), float(y)) for x, y in zip(*line.get_data(), strict=True)] for line in lines}


def title(figure: Figure, panel: int = 0) -> str:
    return figure.axes[panel].get_title(loc="left")


def test_training_figure_has_three_panels_with_the_logged_values():
    figure = plots.training_figure(HISTORY)
    assert [title(figure, panel) for panel in range(3)] == ["Loss", "Accuracy", "Reward margin"]
    assert curves(figure, 0) == {"training": [(10, 0.7), (20, 0.4)], "evaluation": [(20, 0.5)]}
    accuracy = curves(figure, 1)
    assert accuracy["training"] == [(10, 0.5), (20, 0.8)]
    assert accuracy["evaluation"] == [(20, 0.75)]
    assert [y for _, y in accuracy["one half (chance)"]] == [0.5, 0.5]
    assert curves(figure, 2) == {"training": [(10, 0.0), (20, 1.5)], "evaluation": [(20, 1.0)]}
    assert {axes.get_xlabel() for axes in figure.axes} == {"optimizer step"}
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "loss (nats per pair)",
        "accuracy (share of pairs)",
        "chosen - rejected (reward units)",
    ]
    assert all(axes.get_legend() is not None for axes in figure.axes)
    assert figure.get_suptitle() == ""


def test_each_evaluation_set_has_its_own_curve():
    history = [{"step": 5, "eval_hard_loss": 0.6, "eval_easy_$x_loss": 0.1}]
    assert curves(plots.training_figure(history), 0) == {
        "evaluation (easy_\\$x)": [(5, 0.1)],
        "evaluation (hard)": [(5, 0.6)],
    }


def test_subsets_of_an_evaluation_set_have_no_curve():
    subset = {"eval_math_accuracy": 0.9, "eval_math_pairs": 3, "eval_pairs": 5}
    named = {"eval_test_loss": 0.4, "eval_test_accuracy": 0.6, "eval_test_pairs": 5}
    figure = plots.training_figure([HISTORY[2] | subset | named])
    assert list(curves(figure, 1)) == ["evaluation", "evaluation (test)", "one half (chance)"]


def test_without_evaluation_only_training_is_drawn():
    assert list(curves(plots.training_figure(HISTORY[:2]), 0)) == ["training"]


def test_a_single_entry_is_visible_as_a_marker():
    lines = plots.training_figure(HISTORY[:1]).axes[0].lines
    assert [line.get_marker() for line in lines] == ["o"]


def test_values_that_are_not_finite_are_left_out_and_counted():
    history = [*HISTORY, {"step": 30, "loss": math.nan, "eval_accuracy": math.inf}]
    figure = plots.training_figure(history)
    assert curves(figure, 0)["training"] == [(10, 0.7), (20, 0.4)]
    assert figure.get_suptitle() == "2 non-finite values left out"


def test_a_panel_without_values_says_so():
    figure = plots.training_figure([{"step": 1, "loss": 0.5}])
    assert [text.get_text() for text in figure.axes[2].texts] == ["not logged"]


@pytest.mark.parametrize("history", [[], [{"step": 3, "train_runtime": 1.0}], [{"step": 3, "loss": math.nan}]])
def test_an_empty_history_writes_nothing(tmp_path, history):
    assert plots.plot_training(history, tmp_path / "training.png") is None
    assert list(tmp_path.iterdir()) == []


def test_rewards_figure_shares_its_bins_and_names_means_and_accuracy():
    figure = plots.rewards_figure([2.0, 1.0, 0.0], [0.0, 1.0, 2.0])
    axes = figure.axes[0]
    assert title(figure) == "Rewards of 3 pairs: accuracy 0.500"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "chosen, mean +1.000",
        "rejected, mean +1.000",
    ]
    chosen, rejected = (container.patches for container in axes.containers)
    assert [bar.get_x() for bar in chosen] == [bar.get_x() for bar in rejected]
    assert sum(bar.get_height() for bar in chosen) == sum(bar.get_height() for bar in rejected) == 3


def test_accuracy_of_the_rewards_counts_a_tie_as_half():
    assert title(plots.rewards_figure([1.0, 2.0], [1.0, 0.0])).endswith("accuracy 0.750")


def test_a_pair_with_a_reward_that_is_not_finite_is_left_out_and_counted():
    figure = plots.rewards_figure([1.0, math.nan, 3.0], [0.0, 0.0, math.inf])
    assert title(figure) == "Rewards of 1 pair: accuracy 1.000 (2 non-finite pairs left out)"


@pytest.mark.parametrize("value", [0.0, -7.5, 3e30])
def test_constant_rewards_fall_into_one_bar(value):
    axes = plots.rewards_figure([value] * 4, [value] * 4).axes[0]
    for container in axes.containers:
        full = [bar for bar in container.patches if bar.get_height()]
        assert [bar.get_height() for bar in full] == [4]
        assert full[0].get_x() + full[0].get_width() / 2 == pytest.approx(value)


def test_a_far_outlier_does_not_ask_for_many_bins():
    axes = plots.rewards_figure([0.0] * 5000 + [1e9], [0.0] * 5001).axes[0]
    assert len(axes.containers[0].patches) == 51


@pytest.mark.parametrize("rewards", [([], []), ([math.nan], [1.0])])
def test_no_finite_pair_writes_nothing(tmp_path, rewards):
    assert plots.plot_rewards(*rewards, tmp_path / "rewards.png") is None
    assert list(tmp_path.iterdir()) == []


def test_sides_of_different_length_are_refused():
    with pytest.raises(ValueError, match="2 chosen but 1 rejected rewards"):
        plots.rewards_figure([1.0, 2.0], [1.0])


def test_data_report_figure_shows_the_quantiles_of_each_part():
    figure = plots.data_report_figure(REPORT)
    assert title(figure, 0) == "Training: token lengths of 1,990 pairs (max_length 1,024)"
    assert title(figure, 1) == "Evaluation: token lengths of 1 pair"
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["prompt", "chosen", "rejected"]
    bars = [(bar.get_x(), bar.get_width()) for container in axes.containers for bar in container.patches]
    assert bars == [(0, 20), (20, 8), (0, 55), (55, 65), (0, 50), (50, 50)]
    assert axes.texts[2].get_text() == "median 50, p95 100, max 1,251"
    assert axes.get_xlim()[1] >= 1251


@pytest.mark.parametrize("report", [{}, {"train": {"kept": 0, "tokens": {}}}, {"overlapping_prompts": 0}])
def test_a_report_without_lengths_writes_nothing(tmp_path, report):
    assert plots.plot_data_report(report, tmp_path / "data.png") is None
    assert list(tmp_path.iterdir()) == []


def test_each_plot_is_written_as_a_png_and_its_path_returned(tmp_path):
    folder = tmp_path / "new" / "plots"
    written = [
        plots.plot_training(HISTORY, folder / "training.png"),
        plots.plot_rewards([1.0, 2.0], [0.0, 0.5], str(folder / "rewards.png")),
        plots.plot_data_report(REPORT, folder / "data.png"),
    ]
    assert written == [folder / "training.png", folder / "rewards.png", folder / "data.png"]
    assert all(path.read_bytes().startswith(PNG) for path in written)
    assert sorted(folder.iterdir()) == sorted(written)


def test_a_write_that_fails_leaves_the_older_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "rewards.png"
    path.write_bytes(b"older")

    def half_written(self: Figure, target: Path, **kwargs: object) -> None:
        Path(target).write_bytes(PNG)
        raise OSError("No space left on device")

    monkeypatch.setattr(Figure, "savefig", half_written)
    with pytest.raises(OSError, match="No space left"):
        plots.plot_rewards([1.0], [0.0], path)
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("rewards.png", b"older")]


def test_drawing_does_not_import_pyplot_and_importing_does_not_import_matplotlib(tmp_path):
    code = (
        "import sys\n"
        "from hf_reward.evaluation import plots\n"
        "assert 'matplotlib' not in sys.modules\n"
        "plots.plot_rewards([1.0], [0.0], sys.argv[1])\n"
        "print('matplotlib.pyplot' in sys.modules)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "rewards.png")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"
