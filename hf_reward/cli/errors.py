"""From an error to one readable message and an exit code."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from hf_reward.errors import ConfigurationError, DataError, RunError, Stopped
from hf_reward.redaction import redact


@dataclass
class Outcome:
    """How a command ended."""

    code: int = 0


def take_debug(argv: list[str]) -> tuple[list[str], bool]:
    """
    Take `--debug` out of the words of a command: whether a mistake is to be shown with its traceback.

    `TrainingArguments` has a `debug` of its own, which takes a value; that one stays.

    Examples:

    >>> take_debug(["recipe.yaml", "--debug"])
    (['recipe.yaml'], True)
    >>> take_debug(["recipe.yaml", "--debug", "underflow_overflow"])
    (['recipe.yaml', '--debug', 'underflow_overflow'], False)
    """
    for place, word in enumerate(argv):
        if word == "--debug" and argv[place + 1 : place + 2] not in (["underflow_overflow"], ["tpu_metrics_debug"]):
            return argv[:place] + argv[place + 1 :], True
    return argv, False


@contextmanager
def exit_code(debug: bool = False) -> Iterator[Outcome]:
    """
    Turn a user's mistake into exit code 2, a failed run into 1 and a stopped one into 143, with the message alone.

    Errors that nobody foresaw go through, with their traceback.

    Args:
        debug (`bool`, *optional*, defaults to `False`): Show the traceback of foreseen errors too.

    Examples:

    >>> with exit_code() as outcome:
    ...     pass
    >>> outcome.code
    0
    """
    outcome = Outcome()
    try:
        yield outcome
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output (`| head`) has seen enough; Python must not try to flush the rest at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ConfigurationError, DataError, RunError) as error:
        if debug:
            print(redact(traceback.format_exc()), end="", file=sys.stderr)
        print(f"error: {redact(str(error))}", file=sys.stderr)
        outcome.code = 1 if isinstance(error, RunError) else 2
    except Stopped as stopped:
        outcome.code = int(stopped.code or 0)
