"""The model card: facts observed during a run in, a `README.md` with metadata that the Hub reads out."""

import html
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from hf_reward.evaluation.tables import METRICS, reasons, report_splits, shorten, verdict, visible
from hf_reward.files import whole_or_absent
from hf_reward.hub.facts import PAIR_TEXTS, CardFacts, clean_facts, is_hub_dataset, last_part, source_label


if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

LOCAL_LOCATION = "path/to/this/folder"
PLOT_TITLES = {
    "training": "Loss, accuracy and reward margin over the optimizer steps",
    "rewards": "Rewards of the chosen and of the rejected completions",
    "data": "Token lengths of the pairs",
}


def render_card(facts: CardFacts) -> str:
    """
    Write the card of a model as Markdown with a metadata block. The same facts give the same text.

    Secrets (Hub tokens) are removed wherever they stand, and absolute paths are cut to their last part.

    Args:
        facts (`CardFacts`): What was observed of the run.

    Returns:
        `str`: The card, ending with a newline.
    """
    from huggingface_hub import ModelCard

    facts = clean_facts(facts)
    evaluations = _evaluations(facts)
    card = ModelCard.from_template(
        _metadata(facts, evaluations),
        template_path=str(Path(__file__).with_name("card_template.md")),
        facts=facts,
        name=escape_markdown(last_part(facts.model_name)),
        location=facts.hub_model_id or LOCAL_LOCATION,
        base=_hub_link(facts.base_model) if facts.base_model else None,
        sources=[_source(name) for name in facts.datasets],
        headlines=_headlines(evaluations),
        results=_results_table(evaluations),
        longer_is_chosen=facts.data_report.get("eval", {}).get("longer_is_chosen"),
        examples=_examples_table(facts),
        plots=[(_plot_title(last_part(plot)), quote(last_part(plot))) for plot in facts.plots],
        rows=_rows_table(facts.data_report),
        lengths=_lengths_table(facts.data_report),
        notes=_notes_table(facts.data_report),
        train_longer_is_chosen=facts.data_report.get("train", {}).get("longer_is_chosen"),
        overlapping_prompts=facts.data_report.get("overlapping_prompts"),
        procedure=_procedure(facts),
        settings=_table(
            ("Setting", "Value"), [(_code(k), _code(_literal(v))) for k, v in facts.hyperparameters.items()]
        ),
        versions=_table(("Library", "Version"), [(_code(k), _code(v)) for k, v in facts.versions.items()]),
        evaluated=[escape_markdown(name) for name, _ in evaluations],
        number=_number,
    )
    # The blocks of the template stand apart from each other; those that are absent leave their blank lines behind.
    return re.sub(r"\n{3,}", "\n\n", str(card)).rstrip() + "\n"


def write_card(facts: CardFacts, folder: str | Path) -> Path:
    """
    Write the card of a model as `README.md` into a folder; an older card is replaced whole or not at all.

    Args:
        facts (`CardFacts`): What was observed of the run.
        folder (`str` or `Path`): Where the checkpoint lies; made if missing.

    Returns:
        `Path`: The file.
    """
    path = Path(folder) / "README.md"
    text = render_card(facts)
    with whole_or_absent(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")
    return path


def escape_markdown(text: str) -> str:
    r"""
    Write a text so that Markdown shows it as it is, also within a table: line ends become `<br>`.

    Examples:

    >>> escape_markdown("a|b\n<i>`c`")
    'a\\|b<br>&lt;i&gt;\\`c\\`'
    """
    lines = [html.escape(visible(line), quote=False) for line in text.strip().splitlines()]
    return "<br>".join(re.sub(r"([\\`*_\[\]|~$#])", r"\\\1", line) for line in lines)


def _source(name: str) -> str:
    label = source_label(name)
    if is_hub_dataset(label):
        return _hub_link(label, "datasets/")
    kind, tick, rest = label.partition("`")
    return f"{kind}{_code(rest.rstrip('`'))}" if tick else escape_markdown(label)


def _hub_link(name: str, kind: str = "") -> str:
    return f"[{escape_markdown(name)}](https://huggingface.co/{kind}{name})"


def _evaluations(facts: CardFacts) -> list[tuple[str, dict[str, float]]]:
    """List the evaluated sets by name, each with its metrics without prefix; metrics that are not numbers stay out."""
    numbers = {k: v for k, v in facts.eval_metrics.items() if isinstance(v, int | float) and math.isfinite(v)}
    sources = facts.data_report.get("eval", {}).get("sources", {})
    evaluations = []
    for key in numbers:
        match = re.fullmatch(r"(eval_(?:(.+)_)?)accuracy", key)
        if match is None:
            continue
        prefix, name = match.groups()
        name = name or ", ".join(source_label(source).replace("`", "") for source in sources) or "held-out pairs"
        metrics = ("pairs", *(metric for metric, _ in METRICS))
        evaluations.append((name, {m: numbers[prefix + m] for m in metrics if prefix + m in numbers}))
    return evaluations


def _metadata(facts: CardFacts, evaluations: Sequence[tuple[str, Mapping[str, float]]]) -> "ModelCardData":
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="text-classification",
            task_name="Preference between two completions",
            # The Hub tells results apart by this type, so that it must differ from set to set.
            dataset_type=name,
            dataset_name=name,
            dataset_split=facts.eval_split,
            metric_type="accuracy",
            metric_name="Accuracy (ties count half)",
            metric_value=metrics["accuracy"],
        )
        for name, metrics in evaluations
    ]
    return ModelCardData(
        library_name="peft" if facts.is_adapter else "transformers",
        pipeline_tag="text-classification",
        license=facts.license,
        # Of a model with random weights only the architecture comes from elsewhere.
        base_model=None if facts.from_scratch else facts.base_model,
        datasets=[name for name in facts.datasets if is_hub_dataset(name)] or None,
        tags=["reward-model", "reward-trainer", "hf_reward"],
        # Only the results carry the name; without them it would stand in the metadata as a key of its own.
        model_name=last_part(facts.model_name) if results else None,
        eval_results=results or None,
    )


def _headlines(evaluations: Sequence[tuple[str, Mapping[str, float]]]) -> list[str]:
    lines = []
    for name, metrics in evaluations:
        count = f" on {_number(metrics['pairs'])} pairs" if "pairs" in metrics else ""
        lines.append(f"Held-out accuracy: **{metrics['accuracy']:.4f}**{count} ({escape_markdown(name)}).")
    return lines


def _results_table(evaluations: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    rows = []
    for metric, label in (("pairs", "pairs"), *METRICS):
        if any(metric in metrics for _, metrics in evaluations):
            values = [metrics.get(metric) for _, metrics in evaluations]
            cells = [_number(value, places=0 if metric == "pairs" else 4) for value in values]
            rows.append((label[0].upper() + label[1:], *cells))
    return _table(("Measure", *(escape_markdown(name) for name, _ in evaluations)), rows)


def _examples_table(facts: CardFacts) -> str:
    header = ("Pair", "Prompt", "Chosen", "Rejected", "Chosen reward", "Rejected reward", "Model is")
    rows = []
    for kind, pairs in (("Best", facts.best), ("Worst", facts.worst)):
        for place, pair in enumerate(pairs, start=1):
            texts = [escape_markdown(shorten(getattr(pair, part), 200)) for part in PAIR_TEXTS]
            rewards = (f"{pair.chosen_reward:+.3f}", f"{pair.rejected_reward:+.3f}")
            rows.append((f"{kind} {place}", *texts, *rewards, verdict(pair)))
    return _table(header, rows)


def _rows_table(report: Mapping[str, Any]) -> str:
    rows = []
    for split, counts in report_splits(report).items():
        sources = counts.get("sources") or ({"all": counts} if "rows" in counts else {})
        for name, source in sources.items():
            dropped = escape_markdown(reasons(source.get("dropped", {}))) or "none"
            rows.append(
                (escape_markdown(split), _source(name), _number(source["rows"]), _number(source["kept"]), dropped)
            )
    return _table(("Split", "Source", "Rows", "Kept", "Dropped"), rows)


def _lengths_table(report: Mapping[str, Any]) -> str:
    names = ("mean", "p50", "p95", "max")
    rows = [
        (escape_markdown(split), part, *(_number(tokens.get(name), places=1).removesuffix(".0") for name in names))
        for split, described in report_splits(report).items()
        for part, tokens in described.get("tokens", {}).items()
    ]
    return _table(("Split", "Tokens of", "Mean", "Median", "95th percentile", "Longest"), rows)


def _notes_table(report: Mapping[str, Any]) -> str:
    rows = [
        (escape_markdown(split), name.replace("_", " "), _number(count))
        for split, described in report_splits(report).items()
        for name, count in described.get("notes", {}).items()
    ]
    return _table(("Split", "Rows with", "Number"), rows)


def _procedure(facts: CardFacts) -> list[str]:
    trained = facts.train_metrics
    adapter = ", ".join(f"{key} {_literal(value)}" for key, value in (facts.adapter or {}).items())
    items = (
        ("Optimizer steps", _number(trained.get("steps"))),
        ("Pairs seen", _number(trained.get("num_pairs"))),
        ("Tokens seen", _number(trained.get("num_tokens"))),
        ("Mean training loss", _number(trained.get("train_loss"), places=4)),
        ("Training time", _number(trained.get("train_runtime"), places=1), " s"),
        ("Length limit", _number(facts.max_length), " tokens"),
        ("Seed", "" if facts.seed is None else str(facts.seed)),
        ("Weights in training", escape_markdown(facts.dtype or "")),
        ("Adapter", escape_markdown(adapter)),
        ("Hardware and mode", escape_markdown(facts.hardware or "")),
    )
    return [f"{name}: {value}{''.join(unit)}" for name, value, *unit in items if value]


def _plot_title(file: str) -> str:
    return next((title for key, title in PLOT_TITLES.items() if key in file), "Plot")


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    if not lines:
        return ""
    return "\n".join([f"| {' | '.join(header)} |", "|---" * len(header) + "|", *lines])


def _number(value: float | None, places: int = 0) -> str:
    if value is None:
        return ""
    return f"{value:,.{places}f}" if math.isfinite(value) else "not finite"


def _code(value: Any) -> str:
    return "`" + str(value).replace("`", "'").replace("|", "\\|") + "`"


def _literal(value: Any) -> str:
    # As in a recipe: null, true and numbers, and text without quotation marks.
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
