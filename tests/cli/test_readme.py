"""The README's commands run, and what it shows is what they print."""

import ast
import re
from pathlib import Path

import pytest

from hf_reward.cli.quickstart import main as quickstart
from hf_reward.cli.score import main as score


README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder in which the quickstart has run, and what it printed."""
    import contextlib
    import io

    folder = tmp_path_factory.mktemp("readme")
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(output):
        patch.chdir(folder)
        assert quickstart(["--output_dir", "quickstart"]) == 0
    return folder, output.getvalue()


def test_the_quickstart_prints_what_the_readme_shows(printed: tuple[Path, str]) -> None:
    def lines(text: str) -> list[str]:
        # Which pairs stand at both ends may differ with the machine's arithmetic, and so do digits of rewards.
        text = re.sub(r"Best and worst pairs.*(?=Everything lies)", "", text, flags=re.DOTALL)
        text = re.sub(r"\S*(hf_reward-(train|score) )", r"\1", text)
        return [" ".join(line.split()) for line in text.splitlines() if line.strip(" .─")]

    shown, real = lines(blocks("text")[0]), lines(printed[1])
    steady = [line for line in shown if not re.search(r"(loss|reward|deviation|calibration).* [-+]?\d", line)]
    assert len(steady) > 30
    assert [line for line in steady if line not in real] == []
    assert "accuracy (ties count half) 1.0000 500 of 500 pairs" in steady


def test_the_readmes_scoring_works(printed: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    code = next(block for block in blocks("python") if "RewardScorer" in block)
    command = next(block for block in blocks("bash") if "hf_reward-score" in block)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(printed[0])
        exec(compile(code, "README", "exec"), {})
        shown = ast.literal_eval(capsys.readouterr().out)
        import shlex

        assert score(shlex.split(command)[1:]) == 0
    first, second = (float(line.split()[0]) for line in capsys.readouterr().out.splitlines())
    assert shown == pytest.approx([first], abs=1e-4)
    assert first > 1 > second  # capitals were asked for


def test_the_readmes_script_trains(tmp_path: Path, causal_folder: Path, chat_pairs) -> None:
    code = next(block for block in blocks("python") if "RewardTrainer(" in block)
    causal_folder.rename(tmp_path / "my_model")
    chat_pairs.to_json(tmp_path / "pairs.jsonl")
    chat_pairs.to_json(tmp_path / "heldout.jsonl")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        exec(compile(code.replace("2048", "256"), "README", "exec"), {})
    assert (tmp_path / "reward_model" / "model.safetensors").is_file()


def test_every_file_that_the_readme_names_is_there() -> None:
    root = Path(__file__).parents[2]
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (root / target).exists(), target
    for folder in re.findall(r"`(hf_reward/\w+)/`", README):
        assert (root / folder).is_dir(), folder
