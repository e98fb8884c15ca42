"""`hf_reward-quickstart`: a task, a tiny model and a recipe written to a folder, and one real training run."""

import argparse
import sys

from hf_reward.cli.errors import exit_code


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit code of the training run."""
    arguments = _parser().parse_args(argv)
    with exit_code() as outcome:
        from hf_reward.quickstart.prepare import prepare

        recipe = prepare(arguments.output_dir, arguments.seed)
        print(
            "The task: the prompt asks for a style, the chosen completion keeps it, the rejected one breaks it.\n"
            f"Wrote {arguments.output_dir}/data, a model to start from ({arguments.output_dir}/base) and a recipe.\n\n"
            f"$ hf_reward-train {recipe}",
            flush=True,
        )
        from hf_reward.cli.train import main as train

        outcome.code = train([str(recipe)])
    return outcome.code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hf_reward-quickstart",
        description="Train a tiny reward model on a generated task; needs no network and under a minute.",
        allow_abbrev=False,
    )
    parser.add_argument("--output_dir", default="quickstart", help="where everything is written (default: quickstart)")
    parser.add_argument("--seed", type=int, default=1, help="of task, weights and order (default: 1)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
