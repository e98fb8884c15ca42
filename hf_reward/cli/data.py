"""`hf_reward-data`: what became of the rows of a recipe or a file, and how long they are; no model is needed."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_reward.cli.errors import exit_code, take_debug
from hf_reward.cli.train import log_on_terminal
from hf_reward.errors import ConfigurationError


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hf_reward.config import DataArguments, ModelArguments, RewardConfig

PROG = "hf_reward-data"
NO_MODEL = "(no model)"
HELP = """usage: hf_reward-data RECIPE_OR_DATA [--key value ...] [--output REPORT.json] [--figure LENGTHS.png]

Load, tokenise and filter preference data as `hf_reward-train` would, and say what was kept and dropped and why.
No model is loaded and nothing is trained.

  RECIPE_OR_DATA     a recipe (.yaml), or a file, folder or Hub id of preference data
  --key value        any setting of a recipe; wins over the recipe's (`hf_reward-train --help` lists them)
  --output FILE      write the report as JSON
  --figure FILE      draw the token lengths as PNG
  --debug            show the traceback of an error

The tokenizer is that of the recipe's model, or the one named by --tokenizer_name_or_path. Without either, lengths are
counted in bytes and the length limits are off.

examples:
  hf_reward-data recipe.yaml
  hf_reward-data pairs.jsonl --tokenizer_name_or_path Qwen/Qwen3-0.6B --max_length 2048
"""
# For lengths in bytes: every role and content, whatever their kind.
_BYTE_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- message['role'] + ': ' }}"
    "{%- set content = message['content'] or message['tool_calls'] or '' %}"
    "{{- content if content is string else content | tojson }}"
    "{{- '\n' if not loop.last or add_generation_prompt else eos_token }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- 'assistant: ' }}{%- endif %}"
)


def main(argv: list[str] | None = None) -> int:
    """
    The command.

    Returns:
        `int`: 0 if all went well, 2 for a mistake in the settings or the data.
    """
    argv, debug = take_debug(sys.argv[1:] if argv is None else argv)
    if not argv or "-h" in argv or "--help" in argv:
        print(HELP, end="")
        return 0 if argv else 2
    with exit_code(debug) as outcome, log_on_terminal():
        _describe(*_take(argv, "output", "figure"))
    return outcome.code


def _describe(argv: list[str], files: dict[str, str]) -> None:
    args, data_args, model_args = _parse(argv)
    data_args.check_sources()
    from hf_reward.evaluation.tables import data_table, print_table
    from hf_reward.files import write_json
    from hf_reward.training.data import load_data

    tokenizer, note = _tokenizer(args, model_args)
    data = load_data(args, data_args, tokenizer, check=False)
    data.count_streams()
    report = data.report
    print_table(data_table(report))
    print(f"lengths: {note}")
    if "output" in files:
        write_json(report | {"tokenizer": note}, files["output"])
    if "figure" in files:
        from hf_reward.evaluation.plots import plot_data_report

        plot_data_report(report, files["figure"])


def _parse(argv: list[str]) -> "tuple[RewardConfig, DataArguments, ModelArguments]":
    """The settings of a run; a model and an output folder, which a run must have, are filled in."""
    from hf_reward.cli.recipe import parse
    from hf_reward.cli.sources import read_command_line, read_recipe

    settings = []
    if not argv[0].startswith("-"):
        if argv[0].endswith((".yaml", ".yml")):
            settings += read_recipe(argv[0])
        else:
            argv = ["--dataset_name", *argv]
    settings += read_command_line(argv[1:] if settings else argv)
    given = {setting.key for setting in settings}
    # Nothing is evaluated here, and nothing reported to a tracker.
    argv = [*argv, "--output_dir=unused"] if "output_dir" not in given else argv
    return parse([*argv, f"--model_name_or_path={NO_MODEL}"] if "model_name_or_path" not in given else argv, prog=PROG)


def _tokenizer(args: "RewardConfig", model_args: "ModelArguments") -> "tuple[PreTrainedTokenizerBase, str]":
    """The tokenizer, repaired as for a run, and in words what the lengths are counted in."""
    from hf_reward.modeling.tokenizer import load_tokenizer
    from hf_reward.training.setup import fit_tokenizer

    model = None if model_args.model_name_or_path == NO_MODEL else model_args.model_name_or_path
    name = model_args.tokenizer_name_or_path or model
    if name is None:
        from hf_reward.quickstart.model import byte_tokenizer

        tokenizer: Any = byte_tokenizer()
        tokenizer.chat_template = _BYTE_TEMPLATE
        args.max_length = args.max_prompt_length = None
        return tokenizer, "bytes, not tokens, and no limit; name a tokenizer by --tokenizer_name_or_path"
    revision = model_args.tokenizer_revision or (model_args.model_revision if name == model else None)
    tokenizer = load_tokenizer(name, revision, args.trust_remote_code)
    fit_tokenizer(tokenizer, args, None, args.trust_remote_code)
    return tokenizer, f"tokens of {Path(name).name if Path(name).exists() else name}"


def _take(argv: list[str], *names: str) -> tuple[list[str], dict[str, str]]:
    """Take options of this command alone, `--name value` or `--name=value`, out of the words."""
    left, taken, words = [], {}, iter(argv)
    for word in words:
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name not in names:
            left.append(word)
            continue
        value = value if equals else next(words, "")
        if not value or value.startswith("--"):
            raise ConfigurationError(f"command line: `--{name}`: found no value; expected a file")
        taken[name] = value
    return left, taken


if __name__ == "__main__":
    sys.exit(main())
