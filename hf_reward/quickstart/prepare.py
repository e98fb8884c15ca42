"""The quickstart as files: data, a model to start from, and the recipe, all to be read, changed and run again."""

from pathlib import Path
from typing import Any

import yaml

from hf_reward.files import whole_or_absent
from hf_reward.quickstart.model import RECIPE, write_model
from hf_reward.quickstart.task import train_and_heldout, write_jsonl


HEADER = """\
# The quickstart's recipe. Run it again by: hf_reward-train {path}
# Its keys are those of `hf_reward-train --help`; a value on the command line wins over the one here.
"""


def prepare(folder: str | Path, seed: int) -> Path:
    """
    Write `data/train.jsonl`, `data/heldout.jsonl`, `base/` (config and tokenizer) and `recipe.yaml` into a folder.

    Args:
        folder (`str` or `Path`): Made if missing.
        seed (`int`): Of the task, the weights and the order of the pairs.

    Returns:
        `Path`: The recipe.
    """
    folder = Path(folder)
    train, heldout = train_and_heldout(seed=seed)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    write_jsonl(train, folder / "data" / "train.jsonl")
    write_jsonl(heldout, folder / "data" / "heldout.jsonl")
    write_model(folder / "base")
    recipe = folder / "recipe.yaml"
    with whole_or_absent(recipe) as partial:
        text = yaml.safe_dump(settings(folder, seed), sort_keys=False)
        partial.write_text(HEADER.format(path=recipe) + text, encoding="utf-8")
    return recipe


def settings(folder: Path, seed: int) -> dict[str, Any]:
    """The recipe's settings."""
    return {
        "model_name_or_path": str(folder / "base"),
        "from_scratch": True,
        "dataset_name": str(folder / "data" / "train.jsonl"),
        "eval_dataset_name": str(folder / "data" / "heldout.jsonl"),
        "output_dir": str(folder / "model"),
        "seed": seed,
        **RECIPE,
        "gradient_checkpointing": False,
        "eval_on_start": True,
        "save_strategy": "no",
    }
