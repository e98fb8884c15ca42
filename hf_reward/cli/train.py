"""`hf_reward-train`: a recipe in, a trained, saved, scored and described reward model out."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_reward.cli.errors import exit_code, take_debug


if TYPE_CHECKING:
    from hf_reward.training.run import RunResult


def main(argv: list[str] | None = None) -> int:
    """
    The command.

    Returns:
        `int`: 0 if all went well, 2 for a mistake in the settings or the data, 1 for a run that failed, 143 for one
        that was told to stop.
    """
    argv, debug = take_debug(sys.argv[1:] if argv is None else argv)
    if "-h" in argv or "--help" in argv:
        from hf_reward.cli.help import render_all, render_help

        with exit_code() as outcome:
            print(render_all() if "all" in argv else render_help())
        return outcome.code
    with exit_code(debug) as outcome, log_on_terminal():
        from hf_reward.cli.launch import check_launcher, is_launched, launch
        from hf_reward.cli.recipe import parse, parse_launch

        processes = parse_launch(argv)
        if processes.accelerate_config is not None and not is_launched():
            outcome.code = launch([*argv, *(["--debug"] if debug else [])], processes)
        else:
            from hf_reward.training.run import run

            check_launcher(processes)
            _show(run(*parse(argv)))
    return outcome.code


def run_training(recipe: str | Path | None = None, **settings: Any) -> "RunResult":
    """
    The programmatic form of the command: the same names, the same checks, the same files.

    Args:
        recipe (`str` or `Path`, *optional*): A YAML recipe.
        settings: Any setting of a recipe, the seed's names included; they win over the recipe's.

    Returns:
        [`~hf_reward.training.run.RunResult`]: Metrics, data report, best and worst pairs, and the output folder.

    Raises:
        `ConfigurationError`, `DataError`, `RunError`: As the command would report them.

    Examples:

    ```python
    from hf_reward import run_training

    result = run_training(
        model_name_or_path="path/to/model", dataset_name="pairs.jsonl", output_dir="output/reward_model"
    )
    ```
    """
    from hf_reward.cli.recipe import parse_call
    from hf_reward.training.run import run

    return run(*parse_call(None if recipe is None else str(recipe), settings))


def _show(result: "RunResult") -> None:
    """Print what a person wants to see at the end of a run; the first process alone speaks."""
    if int(os.environ.get("RANK", "0")):
        return
    from hf_reward.cli.show import print_data, print_dry_run, print_result

    if result.data_only:
        print_data(result)
    elif result.dry_run is not None:
        print_dry_run(result)
    else:
        print_result(result)


@contextmanager
def log_on_terminal() -> Iterator[None]:
    """Show our log lines on the terminal: all of them from the first process, warnings from the others."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    log = logging.getLogger("hf_reward")
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.WARNING if int(os.environ.get("RANK", "0")) else logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


if __name__ == "__main__":
    sys.exit(main())
