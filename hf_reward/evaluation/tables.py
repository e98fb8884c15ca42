"""Tables for the terminal: what was measured, the best and worst pairs, and what became of the data."""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from hf_reward.evaluation.pairs import ScoredPair


if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    from hf_reward.training.memory import MemoryNeed

METRICS = (
    ("accuracy", "accuracy (ties count half)"),
    ("tie_rate", "tie rate"),
    ("loss", "loss"),
    ("reward_margin", "reward margin"),
    ("chosen_reward", "chosen reward (mean)"),
    ("rejected_reward", "rejected reward (mean)"),
    ("reward_std", "reward standard deviation"),
    ("reward_margin_p5", "reward margin (5th percentile)"),
    ("reward_margin_p50", "reward margin (median)"),
    ("reward_margin_p95", "reward margin (95th percentile)"),
    ("calibration_error", "calibration error of sigmoid(margin)"),
    ("length_correlation", "correlation of reward and length"),
    ("longer_wins", 'accuracy of "the longer wins"'),
    ("accuracy_chosen_shorter", "accuracy where chosen is shorter"),
)
# Those of them that are shares of pairs, and are shown with the number they are shares of.
SHARES = ("accuracy", "tie_rate", "longer_wins", "accuracy_chosen_shorter")
# Joiners that scripts and emoji need; all other invisible characters could rewrite the terminal.
VISIBLE_JOINERS = "\u200c\u200d"


def print_table(renderable: "RenderableType", file: TextIO | None = None, width: int | None = None) -> None:
    """
    Print a table: in colour on a terminal, as plain text elsewhere.

    Characters that the stream cannot encode are written as question marks.

    Args:
        renderable (`RenderableType`): What one of the functions of this module returned.
        file (`TextIO`, *optional*): Where to print; defaults to the standard output.
        width (`int`, *optional*): Columns to use; defaults to those of the terminal, or 80 without one.
    """
    from rich.console import Console

    stream = sys.stdout if file is None else file
    console = Console(file=stream, width=width)
    with console.capture() as capture:
        console.print(renderable)
    # Lines are padded to the full width, which a file or a log has no use for.
    text = "\n".join(line.rstrip() for line in capture.get().split("\n"))
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "replace").decode(encoding))


def metrics_table(metrics: Mapping[str, Any], title: str = "Evaluation") -> "Table":
    """
    Show what one evaluation measured.

    Args:
        metrics (`Mapping`): Metrics by name, with or without the prefix `eval_`; what is missing is not shown.
        title (`str`, *optional*, defaults to `"Evaluation"`): What was measured.

    Returns:
        `rich.table.Table`: One row for each measure.
    """
    values = {key.removeprefix("eval_"): value for key, value in metrics.items()}
    table = _table(title)
    table.add_column("measure")
    table.add_column("value", justify="right")
    table.add_column("counted")
    pairs = values.get("pairs")
    if pairs is not None:
        table.add_row("pairs", f"{pairs:,.0f}", "")
    for key, label in METRICS:
        if values.get(key) is None:
            continue
        of = values.get("pairs_chosen_shorter") if key == "accuracy_chosen_shorter" else pairs
        table.add_row(label, f"{values[key]:.4f}", _share(values[key], of) if key in SHARES else "")
    for key, count in values.items():
        name = key.removesuffix("_pairs")
        accuracy = values.get(f"{name}_accuracy") if key != name else None
        if accuracy is not None:
            table.add_row(_text(f"accuracy: {name}"), f"{accuracy:.4f}", _share(accuracy, count))
    return table


def pairs_table(
    best: Sequence[ScoredPair],
    worst: Sequence[ScoredPair],
    random: Sequence[ScoredPair] = (),
    title: str = "Best and worst pairs",
) -> "Table":
    """
    Show scored pairs, three lines each: the prompt, and either side with its reward.

    Args:
        best (`Sequence[ScoredPair]`): Pairs with the largest margins, largest first.
        worst (`Sequence[ScoredPair]`): Pairs with the smallest margins, smallest first.
        random (`Sequence[ScoredPair]`, *optional*): Pairs taken at random.
        title (`str`, *optional*, defaults to `"Best and worst pairs"`): What is shown.

    Returns:
        `rich.table.Table`: Texts longer than two lines are shortened in their middle to fit the terminal.
    """
    table = _table(title)
    table.add_column("pair", no_wrap=True)
    table.add_column("side", no_wrap=True)
    table.add_column("reward", justify="right", no_wrap=True)
    table.add_column("text", ratio=1)
    for kind, pairs in (("best", best), ("worst", worst), ("random", random)):
        for place, pair in enumerate(pairs, start=1):
            sides = [
                ("chosen", f"{pair.chosen_reward:+.3f}", pair.chosen),
                ("rejected", f"{pair.rejected_reward:+.3f}", pair.rejected),
            ]
            if pair.prompt:
                sides.insert(0, ("prompt", "", pair.prompt))
            labels = [f"{kind} {place}", f"{verdict(pair)} {pair.margin:+.3f}", ""]
            for label, (side, reward, text) in zip(labels, sides, strict=False):
                table.add_row(label, side, reward, _Shortened(text))
            table.add_section()
    return table


def data_table(report: Mapping[str, Any]) -> "RenderableType":
    """
    Show what became of the rows of each source, and how long the pairs are.

    Args:
        report (`Mapping`): The data report, as written to `data_report.json`.

    Returns:
        `RenderableType`: A table of rows by source, and one of token lengths if the report has them.
    """
    from rich.console import Group

    rows, lengths = _table("Data"), _table("Token lengths")
    for name in ("split", "source"):
        rows.add_column(name, overflow="fold")
    for name in ("rows", "kept"):
        rows.add_column(name, justify="right", no_wrap=True)
    rows.add_column("dropped")
    for name in ("split", "part", "mean", "p50", "p95", "max"):
        lengths.add_column(name, justify="right" if name not in ("split", "part") else "left", no_wrap=True)
    facts = _table("Pairs")
    for name in ("split", "measure", "value"):
        facts.add_column(name, justify="right" if name == "value" else "left", overflow="fold")
    for split, described in report_splits(report).items():
        for source, counts in described.get("sources", {}).items():
            dropped = reasons(counts.get("dropped", {}))
            rows.add_row(
                _text(split), _text(source), f"{counts['rows']:,}", f"{counts['kept']:,}", _text(dropped or "none")
            )
        for part, tokens in described.get("tokens", {}).items():
            numbers = [f"{tokens[name]:,.1f}".removesuffix(".0") for name in ("mean", "p50", "p95", "max")]
            lengths.add_row(_text(split), _text(part), *numbers)
        for measure, value in data_facts(described):
            facts.add_row(_text(split), measure, value)
    return Group(*(table for table in (rows, lengths, facts) if table.rows or table is rows))


def memory_table(need: "MemoryNeed") -> "Table":
    """Show what each device needs, part by part; `need` is a [`~hf_reward.training.memory.MemoryNeed`]."""
    where = need.strategy if need.processes == 1 else f"{need.strategy}, {need.processes} processes"
    table = _table(f"Memory per device, estimated ({where})")
    table.add_column("part")
    table.add_column("MiB", justify="right", no_wrap=True)
    batch = f"activations of {need.sequences:,} x {need.tokens:,} tokens"
    parts = {
        "weights": need.weights,
        "gradients": need.gradients,
        "optimizer": need.optimizer,
        batch: need.activations,
    }
    for part, size in (parts | {"together": need.total}).items():
        table.add_row(part, "not known" if size is None else f"{size / 2**20:,.1f}")
    return table


def report_splits(report: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """
    The splits of a data report by name: training, then every evaluation set.

    Examples:

    >>> list(report_splits({"eval_helpful": {"rows": 1}, "train": {"rows": 2}, "overlapping_prompts": 0}))
    ['train', 'eval_helpful']
    """
    names = sorted((name for name in report if name.startswith(("train", "eval"))), key=lambda name: name != "train")
    return {name: report[name] for name in names}


def data_facts(described: Mapping[str, Any]) -> list[tuple[str, str]]:
    """
    What is worth knowing about the pairs of a split, besides rows and lengths: measures and counts in words.

    Examples:

    >>> data_facts({"longer_is_chosen": 0.5, "notes": {"negative_margin": 2}})
    [('longer completion is the chosen one', '50.0%'), ('rows: negative margin', '2')]
    """
    shares = (
        ("shared_prompt_tokens", "tokens spared by computing each prompt once"),
        ("shared_prefix_tokens", "tokens spared by computing each shared prefix once"),
        ("longer_is_chosen", "longer completion is the chosen one"),
    )
    facts = [(label, f"{100 * described[key]:.1f}%") for key, label in shares if described.get(key) is not None]
    if described.get("overlapping_prompts"):
        facts.append(("training rows with a prompt of this set", f"{described['overlapping_prompts']:,}"))
    notes = described.get("notes", {})
    return facts + [(f"rows: {name.replace('_', ' ')}", f"{count:,}") for name, count in notes.items()]


def reasons(dropped: Mapping[str, int]) -> str:
    """
    Write the counts of dropped rows as text, largest first.

    Examples:

    >>> reasons({"empty": 2, "too_long": 1200})
    '1,200 too long, 2 empty'
    """
    ordered = sorted(dropped.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in ordered if count)


def verdict(pair: ScoredPair) -> str:
    """
    Say whether the model agrees with the data on a pair: `"right"`, `"wrong"` or `"tie"`.

    Examples:

    >>> verdict(ScoredPair("", "a", "b", 1.0, 1.0))
    'tie'
    """
    if pair.margin == 0:
        return "tie"
    return "right" if pair.margin > 0 else "wrong"


def visible(text: str) -> str:
    r"""
    Bring a text onto one line and replace what a terminal would obey rather than show.

    Examples:

    >>> visible("two\nlines \x1b[31mred") == "two lines \ufffd[31mred"
    True
    """
    line = " ".join(text.split())
    return "".join(c if c.isprintable() or c in VISIBLE_JOINERS else "\ufffd" for c in line)


def shorten(text: str, width: int) -> str:
    """
    Shorten a text in its middle, keeping its beginning and its end.

    Args:
        text (`str`): The text.
        width (`int`): Most characters to keep, the dots between the two ends included.

    Examples:

    >>> shorten("abcdefghijklmnop", 11)
    'abc ... nop'
    """
    if len(text) <= width:
        return text
    kept = max(width - 5, 2)
    return f"{text[: kept - kept // 2]} ... {text[-(kept // 2) :]}"


def _share(share: float, pairs: float | None) -> str:
    if pairs is None or not math.isfinite(share):
        return ""
    return f"{share * pairs:,.1f}".removesuffix(".0") + f" of {pairs:,.0f} pairs"


class _Shortened:
    """A text of at most two lines, shortened in its middle to the width that the table leaves for it."""

    def __init__(self, text: str) -> None:
        self.text = visible(text)

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "Iterator[Text]":
        from rich.cells import cell_len

        characters = 2 * options.max_width
        text = shorten(self.text, characters)
        # Wide characters (Chinese, emoji) take two columns each, and words do not fill a line to its end.
        while characters > 8 and (
            cell_len(text) > 2 * options.max_width or len(_text(text).wrap(console, options.max_width)) > 2
        ):
            characters -= 1
            text = shorten(self.text, characters)
        yield _text(text)

    def __rich_measure__(self, console: "Console", options: "ConsoleOptions") -> "Measurement":
        from rich.measure import Measurement

        return Measurement(min(16, options.max_width), options.max_width)


def _table(title: str) -> "Table":
    from rich import box
    from rich.table import Table

    heading = _text(title)
    heading.stylize("bold")
    return Table(title=heading, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")


def _text(text: str) -> "Text":
    # A Text object is shown as it is: square brackets in it are never read as markup, nor ":name:" as an emoji.
    from rich.text import Text

    return Text(visible(text), overflow="fold")
