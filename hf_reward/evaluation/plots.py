"""Draw what a run logged, the rewards it gave and the token lengths of its data, each as a PNG file."""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_reward.evaluation.tables import report_splits
from hf_reward.files import whole_or_absent


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: distinct for all common forms of colour blindness, and in grey.
BLUE, ORANGE, GREY, INK = "#0072B2", "#E69F00", "#8C8C8C", "#333333"
EVALUATION_COLORS = ("#009E73", "#CC79A7", "#D55E00", "#56B4E9")
PANELS = (
    ("loss", "Loss", "loss (nats per pair)"),
    ("accuracy", "Accuracy", "accuracy (share of pairs)"),
    ("reward_margin", "Reward margin", "chosen - rejected (reward units)"),
)
DOTS_PER_INCH = 150

Curves = dict[str, list[tuple[float, float]]]


def plot_training(log_history: Sequence[Mapping[str, Any]], path: str | Path) -> Path | None:
    """
    Draw loss, accuracy and reward margin over the optimizer steps.

    Args:
        log_history (`Sequence[Mapping]`): The Trainer's `log_history`.
        path (`str` or `Path`): The PNG file to write; it is either written whole or not at all.

    Returns:
        `Path`, *optional*: The file, or `None` if nothing was logged and so nothing was written.
    """
    figure = training_figure(log_history)
    return None if figure is None else _save(figure, path)


def plot_rewards(chosen_rewards: Sequence[float], rejected_rewards: Sequence[float], path: str | Path) -> Path | None:
    """
    Draw how the rewards of the chosen and of the rejected completions are spread.

    Args:
        chosen_rewards (`Sequence[float]`): Rewards of the chosen side, shape (P,), in reward units.
        rejected_rewards (`Sequence[float]`): Rewards of the rejected side of the same pairs, shape (P,).
        path (`str` or `Path`): The PNG file to write; it is either written whole or not at all.

    Returns:
        `Path`, *optional*: The file, or `None` if there is no finite pair and so nothing was written.

    Raises:
        `ValueError`: The two sides do not have the same number of rewards.
    """
    figure = rewards_figure(chosen_rewards, rejected_rewards)
    return None if figure is None else _save(figure, path)


def plot_data_report(report: Mapping[str, Any], path: str | Path) -> Path | None:
    """
    Draw the token lengths of the data: median, 95th percentile and maximum of prompts and completions.

    Args:
        report (`Mapping`): The data report, as written to `data_report.json`.
        path (`str` or `Path`): The PNG file to write; it is either written whole or not at all.

    Returns:
        `Path`, *optional*: The file, or `None` if the report has no token lengths and so nothing was written.
    """
    figure = data_report_figure(report)
    return None if figure is None else _save(figure, path)


def training_figure(log_history: Sequence[Mapping[str, Any]]) -> "Figure | None":
    """Build the figure of [`plot_training`]: three panels, one curve for training and one for each evaluation set."""
    panels = [_curves(log_history, metric) for metric, _, _ in PANELS]
    if not any(curves for curves, _ in panels):
        return None
    figure = _new_figure(12.0, 3.9)
    dropped = sum(count for _, count in panels)
    for place, ((curves, _), (metric, title, label)) in enumerate(zip(panels, PANELS, strict=True), start=1):
        axes = figure.add_subplot(1, 3, place)
        _style(axes, title, "optimizer step", label)
        _draw_curves(axes, curves)
        if metric == "accuracy":
            axes.axhline(0.5, color=GREY, linestyle="--", linewidth=1.2, label="one half (chance)", zorder=1)
            axes.set_ylim(0.0, 1.03)
        if metric == "reward_margin":
            axes.axhline(0.0, color=GREY, linewidth=0.8, zorder=1)
        if curves:
            _legend(axes)
    if dropped:
        figure.suptitle(_left_out(dropped, "value"), fontsize=11, color=INK)
    return figure


def rewards_figure(chosen_rewards: Sequence[float], rejected_rewards: Sequence[float]) -> "Figure | None":
    """Build the figure of [`plot_rewards`]: two histograms over the same bins, their means and the accuracy."""
    if len(chosen_rewards) != len(rejected_rewards):
        raise ValueError(
            f"{len(chosen_rewards)} chosen but {len(rejected_rewards)} rejected rewards; give both sides."
        )
    everything = [(float(c), float(r)) for c, r in zip(chosen_rewards, rejected_rewards, strict=True)]
    pairs = [(c, r) for c, r in everything if math.isfinite(c) and math.isfinite(r)]
    if not pairs:
        return None
    chosen, rejected = [c for c, _ in pairs], [r for _, r in pairs]
    edges = _bin_edges(chosen + rejected)
    figure = _new_figure(8.0, 4.5)
    axes = figure.add_subplot()
    for name, rewards, color in (("chosen", chosen, BLUE), ("rejected", rejected, ORANGE)):
        mean = math.fsum(rewards) / len(rewards)
        axes.hist(rewards, bins=edges, color=color, alpha=0.55, label=f"{name}, mean {mean:+.3f}", zorder=2)
        axes.axvline(mean, color=color, linestyle="--", linewidth=1.6, zorder=3)
    accuracy = math.fsum(1.0 if c > r else 0.5 if c == r else 0.0 for c, r in pairs) / len(pairs)
    title = f"Rewards of {_counted(len(pairs), 'pair')}: accuracy {accuracy:.3f}"
    if len(pairs) < len(everything):
        title += f" ({_left_out(len(everything) - len(pairs), 'pair')})"
    _style(axes, title, "reward (reward units)", "completions (count)")
    _legend(axes)
    return figure


def data_report_figure(report: Mapping[str, Any]) -> "Figure | None":
    """Build the figure of [`plot_data_report`]: one panel for each of training and evaluation that has lengths."""
    splits = [(_split_title(key), split) for key, split in report_splits(report).items() if split.get("tokens")]
    if not splits:
        return None
    figure = _new_figure(8.0, 0.6 + 2.4 * len(splits))
    shared = None
    for place, (name, split) in enumerate(splits, start=1):
        axes = figure.add_subplot(len(splits), 1, place, sharex=shared)
        shared = shared or axes
        title = f"{name}: token lengths of {_counted(split['kept'], 'pair')}"
        if split.get("max_length") is not None:
            title += f" (max_length {split['max_length']:,})"
        _style(axes, title, "length (tokens)" if place == len(splits) else "", "")
        _draw_lengths(axes, split["tokens"])
    return figure


def _split_title(key: str) -> str:
    """A split in words; a dollar sign in the name of an evaluation set would start a formula."""
    if key == "train":
        return "Training"
    name = key.removeprefix("eval").removeprefix("_")
    return f"Evaluation ({name})".replace("$", r"\$") if name else "Evaluation"


def _draw_lengths(axes: "Axes", lengths: Mapping[str, Mapping[str, float]]) -> None:
    """Draw a row for each part: a dark bar to the median, a light one to p95, a line to the maximum."""
    parts = [
        (part, color) for part, color in (("prompt", GREY), ("chosen", BLUE), ("rejected", ORANGE)) if part in lengths
    ]
    for row, (part, color) in enumerate(parts):
        median, p95, longest = (lengths[part][key] for key in ("p50", "p95", "max"))
        axes.barh(row, median, height=0.5, color=color)
        axes.barh(row, p95 - median, left=median, height=0.5, color=color, alpha=0.4)
        axes.plot([p95, longest], [row, row], color=color, linewidth=1.4)
        axes.plot([longest], [row], color=color, marker="|", markersize=12, markeredgewidth=1.8)
        text = ", ".join(
            f"{name} {value:,.1f}".removesuffix(".0")
            for name, value in zip(("median", "p95", "max"), (median, p95, longest), strict=True)
        )
        axes.annotate(text, (longest, row), (8, 0), textcoords="offset points", va="center", color=INK, fontsize=10)
    axes.set_yticks(range(len(parts)), [part for part, _ in parts])
    axes.set_ylim(len(parts) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    # Room to the right of the longest line for its three numbers.
    axes.set_xlim(0, max(axes.get_xlim()[1], 1.7 * max(lengths[part]["max"] for part, _ in parts), 1))


def _curves(log_history: Sequence[Mapping[str, Any]], metric: str) -> tuple[Curves, int]:
    """Collect the (step, value) points of a metric by curve, and count the values that are not finite."""
    pattern = re.compile(rf"(?P<eval>eval_(?P<set>.+_)?)?{metric}")
    curves: Curves = {}
    dropped = 0
    for entry in log_history:
        for key, value in entry.items():
            match = pattern.fullmatch(key)
            if match is None or "step" not in entry or not isinstance(value, int | float):
                continue
            prefix = key.removesuffix(metric)
            if f"{prefix}pairs" in entry and f"{prefix}loss" not in entry:
                continue  # of a subset of an evaluation set; its curve would hide those of the sets
            if not math.isfinite(value):
                dropped += 1
                continue
            name = "evaluation" if match["eval"] else "training"
            if match["set"]:
                name += f" ({match['set'][:-1]})"
            curves.setdefault(name, []).append((entry["step"], value))
    return dict(sorted(curves.items(), key=lambda item: (item[0] != "training", item[0]))), dropped


def _draw_curves(axes: "Axes", curves: Curves) -> None:
    evaluation_colors = itertools.cycle(EVALUATION_COLORS)
    for name, points in curves.items():
        steps, values = [step for step, _ in points], [value for _, value in points]
        training = name == "training"
        # A curve of one point would be invisible without its marker.
        marker = None if training and len(points) > 1 else "o"
        color, width = (BLUE, 1.5) if training else (next(evaluation_colors), 2.0)
        # A dollar sign in the name of an evaluation set would start a formula.
        label = name.replace("$", r"\$")
        axes.plot(steps, values, color=color, marker=marker, markersize=5, linewidth=width, label=label)
    if not curves:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.text(0.5, 0.5, "not logged", transform=axes.transAxes, ha="center", va="center", color=GREY, fontsize=11)


def _bin_edges(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    if low == high:
        pad = max(0.5, abs(low) * 0.01)
        low, high = low - pad, high + pad
    # Enough bars to show a shape, few enough that one far outlier cannot ask for millions.
    # An odd number of them puts a lone value in the middle of its bar.
    bins = min(50, max(10, round(math.sqrt(len(values))))) | 1
    return [low + (high - low) * place / bins for place in range(bins)] + [high]


def _new_figure(width: float, height: float) -> "Figure":
    # The Figure alone, without pyplot: no global backend is chosen and no window can open.
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08)
    return Figure(figsize=(width, height), layout=layout, facecolor="white")


def _style(axes: "Axes", title: str, x_label: str, y_label: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, fontsize=12, color=INK, loc="left", fontweight="bold", pad=10)
    axes.set_xlabel(x_label, fontsize=11, color=INK)
    axes.set_ylabel(y_label, fontsize=11, color=INK)
    axes.tick_params(labelsize=10, colors=INK, length=3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.grid(color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    # Steps, tokens and counts are whole numbers; between two rewards there may be less than one.
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=not x_label.startswith("reward")))


def _legend(axes: "Axes") -> None:
    axes.legend(fontsize=10, labelcolor=INK, facecolor="white", edgecolor="none", framealpha=0.85)


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _left_out(count: int, noun: str) -> str:
    return f"{_counted(count, f'non-finite {noun}')} left out"


def _save(figure: "Figure", path: str | Path) -> Path:
    with whole_or_absent(path) as partial:
        figure.savefig(partial, format="png", dpi=DOTS_PER_INCH)
    return Path(path)
