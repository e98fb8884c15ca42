"""`hf_reward-score`: rewards of completions or of a file of conversations, by a trained model."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from hf_reward.cli.errors import exit_code
from hf_reward.errors import ConfigurationError, DataError


EXAMPLES = """examples:
  hf_reward-score MODEL --prompt "Say hello." --completion "Hello!" --completion "No."
  hf_reward-score MODEL --file conversations.jsonl
  cat texts.jsonl | hf_reward-score MODEL --file -
"""


def main(argv: list[str] | None = None) -> int:
    """The command; returns 0, or 2 for a mistake in what was given."""
    arguments = _parser().parse_args(argv)
    with exit_code(arguments.debug) as outcome:
        _score(arguments)
    return outcome.code


def _score(arguments: argparse.Namespace) -> None:
    if arguments.file is None and not arguments.completion:
        raise ConfigurationError("Nothing to score: give `--prompt` and `--completion`, or `--file`.")
    rows = _read(arguments.file) if arguments.file is not None else _conversations(arguments)
    from hf_reward.inference.scorer import RewardScorer

    scorer = RewardScorer.from_pretrained(
        arguments.model, revision=arguments.revision, dtype=arguments.dtype, base_model=arguments.base_model
    )
    rewards = scorer.score(rows, batch_size=arguments.batch_size)
    if arguments.file is not None:
        for reward in rewards:
            print(json.dumps({"reward": reward}))
        return
    for reward, completion in zip(rewards, arguments.completion, strict=True):
        print(f"{reward:+.4f}  {completion}")


def _conversations(arguments: argparse.Namespace) -> list[Any]:
    if arguments.prompt is None:
        return list(arguments.completion)
    system = [{"role": "system", "content": arguments.system}] if arguments.system else []
    prompt = [*system, {"role": "user", "content": arguments.prompt}]
    return [[*prompt, {"role": "assistant", "content": completion}] for completion in arguments.completion]


def _read(file: str) -> list[Any]:
    """Conversations or texts of a JSON Lines file: a list of messages, a text, or one of them under its key."""
    if file != "-" and not Path(file).is_file():
        raise DataError(f"`--file` {file!r} is not a file.")
    text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise DataError(f"{file}, line {number}: not JSON ({error}). Write one JSON value per line.") from error
        if isinstance(value, dict):
            found = [value[key] for key in ("messages", "conversation", "text") if key in value]
            if not found:
                raise DataError(f"{file}, line {number}: the keys are {sorted(value)}; expected `messages` or `text`.")
            value = found[0]
        rows.append(value)
    if not rows:
        raise DataError(f"{file} holds nothing to score.")
    return rows


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hf_reward-score",
        description="Print the reward of completions, or of every line of a JSON Lines file.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("model", help="folder or Hub id of a reward model or of an adapter")
    parser.add_argument("--prompt", help="what the completions answer; without it they are scored as plain text")
    parser.add_argument("--completion", action="append", default=[], help="an answer; may be given several times")
    parser.add_argument("--system", help="a system message before the prompt")
    parser.add_argument("--file", help="JSON Lines of conversations (`messages`) or texts (`text`); - for stdin")
    parser.add_argument(
        "--batch_size", type=int, help="sequences of one padded forward pass; not set: many without padding"
    )
    parser.add_argument("--dtype", default="float32", help="type of the weights (default: float32)")
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")
    parser.add_argument("--base_model", help="folder or Hub id of an adapter's base model, if it does not name it")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


if __name__ == "__main__":
    sys.exit(main())
