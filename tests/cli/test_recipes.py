"""Every recipe in the folder can be run as it stands, and the table in its README says of it what is true."""

from pathlib import Path

import pytest
import yaml

from hf_reward.cli.recipe import parse


FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(path.name for path in FOLDER.glob("*.yaml"))
TABLE = {
    row.split("](")[1].split(")")[0]: [cell.strip() for cell in row.strip("|").split("|")]
    for row in (FOLDER / "README.md").read_text(encoding="utf-8").splitlines()
    if row.startswith("| [")
}

every_recipe = pytest.mark.parametrize("name", RECIPES)


def sources(name: str | None, split: str | None, mixer: list[str] | None, splits: list[str]) -> set[tuple[str, str]]:
    """The sources that a recipe names for one purpose, each with its split."""
    if mixer:
        return set(zip(mixer[::2], splits, strict=True))
    return {(name, split)} if name and split else set()


@every_recipe
def test_a_recipe_sets_what_it_says(name):
    config, data, model = parse([str(FOLDER / name)])

    said = yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))
    assert model.model_name_or_path == said["model_name_or_path"]
    assert data.dataset_name == said.get("dataset_name")
    assert data.dataset_mixer_list == said.get("dataset_mixer_list")
    assert config.output_dir == said["output_dir"]
    assert config.learning_rate == float(said["learning_rate"])
    assert config.per_device_train_batch_size == said["per_device_train_batch_size"]
    assert config.max_length == said["max_length"]
    assert config.eval_strategy == said.get("eval_strategy", "no")
    assert model.use_peft is said.get("use_peft", False)
    assert config.push_to_hub is False


@every_recipe
def test_a_recipe_never_evaluates_on_its_training_rows(name):
    _, data, _ = parse([str(FOLDER / name)])

    train = sources(
        data.dataset_name, data.dataset_train_split, data.dataset_mixer_list, data.dataset_mixer_list_splits
    )
    evaluation = sources(
        data.eval_dataset_name or data.dataset_name,
        data.dataset_test_split or (data.eval_dataset_name and "train"),
        data.dataset_mixer_eval_list,
        data.dataset_mixer_eval_list_splits,
    )
    assert len(train) == 1
    assert train & evaluation == set()
    assert data.eval_overlap in ("error", "drop")


@every_recipe
def test_a_recipe_has_its_blocks_in_order(name):
    text = (FOLDER / name).read_text(encoding="utf-8")

    blocks = ["# Model", "# Data", "# Training", "# Evaluation and logging", "# Hub"]
    if "use_peft" in text:
        blocks.insert(1, "# Adapters")
    starts = [text.index(f"\n{block}") for block in blocks]
    assert starts == sorted(starts)


@every_recipe
def test_the_table_tells_what_a_recipe_does(name):
    _, data, model = parse([str(FOLDER / name)])

    _, base, dataset, method, hardware, command, result = TABLE[name]
    if name != "local_file.yaml":
        assert base == f"`{model.model_name_or_path}`"
        assert dataset == f"`{data.dataset_name or data.dataset_mixer_list[0]}`"
    assert method.startswith("LoRA" if model.use_peft else "all weights")
    assert command == f"`hf_reward-train recipes/{name}`"
    not_run = "# Not yet run." in (FOLDER / name).read_text(encoding="utf-8").splitlines()
    assert (result == "not yet run") is not_run
    assert hardware.endswith("(estimated)") or hardware == "any" or not not_run


def test_the_table_names_every_recipe_and_no_other():
    assert sorted(TABLE) == RECIPES


def test_open_instruct_recipe_carries_the_seeds_defaults():
    config, data, model = parse([str(FOLDER / "open_instruct.yaml")])

    expected = {
        "max_length": 512,
        "max_prompt_length": 256,
        "learning_rate": 2e-5,
        "lr_scheduler_type": "linear",
        "warmup_steps": 0,
        "adam_epsilon": 1e-5,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "weight_decay": 0.01,
        "max_grad_norm": 0,
        "num_train_epochs": 1,
        "gradient_accumulation_steps": 8,
        "per_device_train_batch_size": 1,
        "per_device_eval_batch_size": 1,
        "seed": 1,
        "score_head_init": "normal",
        "disable_dropout": True,
        "gradient_checkpointing": False,
    }
    assert {field: getattr(config, field) for field in expected} == expected
    assert data.dataset_mixer_list == ["allenai/tulu-3-wildchat-reused-on-policy-8b", "1.0"]
    assert data.dataset_mixer_list_splits == ["train"]
    assert model.use_peft is False
