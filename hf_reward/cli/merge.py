"""`hf_reward-merge`: an adapter and its base model become one plain checkpoint."""

import argparse
import sys

from hf_reward.cli.errors import exit_code


EXAMPLES = """examples:
  hf_reward-merge output/adapter --output_dir output/merged
  hf_reward-merge output/adapter --output_dir output/merged --dtype bfloat16 --base_model Qwen/Qwen3-0.6B
"""


def main(argv: list[str] | None = None) -> int:
    """The command; returns 0, 1 if the merged model gives other rewards, or 2 for a mistake in what was given."""
    arguments = _parser().parse_args(argv)
    with exit_code(arguments.debug) as outcome:
        from hf_reward.inference.merging import merge_folder

        check = merge_folder(
            arguments.adapter,
            arguments.output_dir,
            dtype=arguments.dtype,
            base_model=arguments.base_model,
            trust_remote_code=arguments.trust_remote_code,
        )
        print(f"merged: {check}")
        print(f"written to {arguments.output_dir}")
    return outcome.code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hf_reward-merge",
        description="Merge an adapter into its base model, compare the rewards, and write a plain checkpoint.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("adapter", help="folder or Hub id of the adapter")
    parser.add_argument("--output_dir", required=True, help="folder of the plain checkpoint; must be new or empty")
    parser.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", "bfloat16", "float16"),
        help="number format of the merged weights (default: float32, which changes no reward)",
    )
    parser.add_argument("--base_model", help="folder or Hub id of the base model, if the adapter does not name it")
    parser.add_argument("--trust_remote_code", action="store_true", help="let code that the base model ships run")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


if __name__ == "__main__":
    sys.exit(main())
