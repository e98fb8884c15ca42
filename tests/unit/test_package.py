"""The package as it is installed: its names, what an import costs, and the files that travel with it."""

import configparser
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import hf_reward


ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "datasets", "trl", "peft", "accelerate", "matplotlib", "deepspeed")


def loaded_by(statement: str) -> list[str]:
    """The heavy modules that a new interpreter has loaded after a statement."""
    code = f"import sys\n{statement}\nprint('LOADED', *[name for name in {HEAVY!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()[-1].split()[1:]


def test_version_is_that_of_the_citation():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert hf_reward.__version__ == citation["version"] == "0.1.0"


def test_public_names_are_there():
    first = {"RewardTrainer", "RewardConfig", "PreferenceCollator", "RewardScorer", "run_training"}
    assert first <= set(hf_reward.__all__)
    assert {name: getattr(hf_reward, name).__name__ for name in first} == {name: name for name in first}
    assert [name for name in hf_reward.__all__ if not hasattr(hf_reward, name)] == []
    assert set(hf_reward.__all__) <= set(dir(hf_reward))


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="RewardTraner"):
        _ = hf_reward.RewardTraner


def test_the_check_for_heavy_modules_sees_one():
    assert loaded_by("import accelerate.state") == ["torch", "accelerate"]


@pytest.mark.parametrize(
    "statement",
    [
        "import hf_reward",
        "import hf_reward.errors",
        "import hf_reward.cli.train, hf_reward.cli.data, hf_reward.cli.score, hf_reward.cli.quickstart",
        "from hf_reward.cli.train import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass",
    ],
)
def test_import_and_help_load_nothing_heavy(statement):
    assert loaded_by(statement) == []


def test_commands_point_to_functions():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = setup["options.entry_points"]["console_scripts"].split("\n")
    commands = dict(line.split(" = ") for line in lines if line)

    assert set(commands) == {f"hf_reward-{name}" for name in ("train", "data", "score", "merge", "quickstart")}
    for target in commands.values():
        module, function = target.split(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_every_data_file_is_installed(tmp_path):
    def data_files(folder: Path) -> set[str]:
        files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
        # Not data: modules, and the caches that tools leave behind.
        return {file.as_posix() for file in files if file.suffix not in (".py", ".pyc") and "/." not in f"/{file}"}

    built = tmp_path / "built"
    # Everything it writes goes to `built`, so that the source tree stays as it is.
    command = [sys.executable, "setup.py", "--quiet", "build", "--build-base", tmp_path, "--build-lib", built]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    assert run.returncode == 0, run.stderr
    expected = data_files(ROOT / "hf_reward") | {f"recipes/{name}" for name in data_files(ROOT / "recipes")}
    assert data_files(built / "hf_reward") == expected
    assert {"py.typed", "cli/help.txt", "hub/card_template.md", "recipes/README.md"} <= expected
    assert [name for name in expected if name.startswith("data/templates/")] != []
