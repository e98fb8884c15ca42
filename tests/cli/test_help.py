import dataclasses
import subprocess
import sys

import pytest
from transformers import TrainingArguments

from hf_reward.cli.help import _GROUPS, render, render_all, render_help
from hf_reward.cli.schema import parameters
from hf_reward.config import DataArguments, LaunchArguments, ModelArguments, RewardConfig


def test_the_help_file_is_what_the_dataclasses_say():
    pytest.importorskip("transformers", minversion="5.24", reason="older ones describe some of their fields otherwise")
    assert render_help() == render(), "write it again with `python -m hf_reward.cli.help`"


def test_every_field_of_ours_is_in_the_short_help():
    inherited = {field.name for field in dataclasses.fields(TrainingArguments)}
    kinds = (DataArguments, ModelArguments, LaunchArguments)
    ours = {field.name for kind in kinds for field in dataclasses.fields(kind)}
    ours |= {field.name for field in dataclasses.fields(RewardConfig)} - inherited
    shown = [key for keys in _GROUPS.values() for key in keys]
    assert ours - set(shown) == set()
    assert len(shown) == len(set(shown))
    assert 35 <= len(set(shown) - ours) <= 50


def test_the_short_help_imports_neither_torch_nor_transformers():
    code = (
        "import sys; from hf_reward.cli.help import render_help; print(render_help().splitlines()[0]); "
        "print(sorted({'torch', 'transformers', 'datasets', 'trl', 'yaml'} & set(sys.modules)))"
    )
    lines = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert lines == ["Usage: hf_reward-train [RECIPE.yaml] [--key value ...]", "[]"]


def test_the_long_help_lists_every_key_and_alias_within_100_columns():
    lines = render_all().splitlines()
    keys = [line.split()[0] for line in lines if line.startswith("  --")]
    assert set(parameters()) - {key.removeprefix("--") for key in keys} == set()
    assert "%%" not in "".join(lines)
    assert {"--eps", "--exp_name", "--max_token_length"} <= set(keys)
    assert max(len(line) for line in lines) <= 99


def test_defaults_and_units_are_shown():
    text = " ".join(render_help().split())
    assert (
        "--max_length Longest sequence, in tokens; a pair with a longer side is dropped. none: no limit. [1024]"
        in text
    )
    assert "--per_device_train_batch_size Pairs per device and forward pass (twice as many sequences). [8]" in text
    assert "--disable_dropout Set every dropout probability to 0. [on]" in text
