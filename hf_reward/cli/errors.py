"""From an error to one readable message and an exit code."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from hf_reward.errors import ConfigurationError, DataError, RunError


@dataclass
class Outcome:
    """How a command ended."""

    code: int = 0


@contextmanager
def exit_code() -> Iterator[Outcome]:
    """
    Turn a user's mistake into exit code 2 and a failed run into 1, with the message alone; other errors go through.

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
    except (ConfigurationError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        outcome.code = 2
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        outcome.code = 1
