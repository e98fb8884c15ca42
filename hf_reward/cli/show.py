"""What the commands print: the end of a run, and a run that was not made."""

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from hf_reward.training.run import RunResult


def print_result(result: "RunResult") -> None:
    """Held-out metrics with their counts, the best and worst pairs, where everything lies, and what to type next."""
    from hf_reward.evaluation.tables import data_table, metrics_table, pairs_table, print_table

    print_table(data_table(result.data_report))
    if result.eval_metrics:
        print_table(metrics_table(result.eval_metrics, title="Held-out pairs"))
    if result.best:
        print_table(pairs_table(result.best, result.worst))
    folder = Path(result.output_dir)
    files = {
        "model": ".",
        "model card": "README.md",
        "plots": ", ".join(path.name for path in sorted(folder.glob("*.png"))),
        "metrics": "all_results.json",
        "data report": "data_report.json",
    }
    print(f"Everything lies in {folder}:")
    for name, file in files.items():
        print(f"  {name:<12}{file if file != '.' else 'model.safetensors, config.json, tokenizer.json'}")
    print("\nNext:")
    for what, command in next_commands(result.output_dir).items():
        print(f"  {what}:\n    {command}")


def print_data(result: "RunResult") -> None:
    """What became of the data, when it was prepared and nothing else was asked for."""
    from hf_reward.evaluation.tables import data_table, print_table

    print_table(data_table(result.data_report))
    print("The data is prepared and stored (`cache_dataset_only`); nothing was trained.")


def next_commands(folder: str) -> dict[str, str]:
    """Commands that come next, by what they do."""
    train, score = command("hf_reward-train"), command("hf_reward-score")
    own = f"--model_name_or_path {folder} --dataset_name pairs.jsonl --output_dir mine"
    hub = "--model_name_or_path Qwen/Qwen3-0.6B --dataset_name trl-lib/ultrafeedback_binarized"
    return {
        "score a sentence": f'{score} {folder} --prompt "Say hello." --completion "Hello there."',
        "train on your own file": f"{train} {own}",
        "start from a Hub model": f"{train} {hub} --output_dir qwen3-reward",
    }


def command(name: str) -> str:
    """How a command is typed here: by its name, or by its path while its environment is not active."""
    path = Path(sys.executable).with_name(name)
    if shutil.which(name) is not None or not path.exists():
        return name
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def print_dry_run(result: "RunResult") -> None:
    """The first pair with the token where each reward is read, lengths, kept and dropped rows, steps, memory."""
    from rich.text import Text

    from hf_reward.evaluation.tables import data_table, memory_table, print_table

    plan = result.dry_run
    assert plan is not None
    print_table(data_table(result.data_report))
    where = "<- the reward is read here" if plan.reads_last_token else "(an encoder: it pools in its own way)"
    for side, preview in (("chosen", plan.chosen), ("rejected", plan.rejected)):
        title = f"First pair, {side} ({preview.tokens} tokens, {preview.prompt_tokens} of the prompt)\n"
        body = Text(title, style="bold")
        body.append(preview.prompt, style="dim not bold")
        body.append(preview.completion, style="not bold")
        body.append(f" [{preview.last_token}] ", style="reverse")
        body.append(f"{where}\n", style="italic not bold")
        print_table(body)
    print_table(memory_table(plan.memory))
    pairs = "" if plan.pairs_per_step is None else f" of {plan.pairs_per_step:,} pairs"
    print(f"{plan.optimizer_steps:,} optimizer steps{pairs}, batches {plan.layout.replace('_', ' ')}")
    print(f"{plan.parameters:,} parameters, {plan.trainable_parameters:,} of them trained")
    print("Dry run: nothing was trained, nothing was written.")
