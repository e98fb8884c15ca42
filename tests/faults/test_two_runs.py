"""Two runs in one folder: the second is refused; what a dead one left locks nothing."""

import os
import signal
from pathlib import Path

import pytest

from hf_reward import ConfigurationError
from hf_reward.cli.train import main as train
from hf_reward.training.folder_lock import LOCK, check_no_other_run, only_run_in
from tests.faults.test_resume import in_a_child, spy


class Neighbour:
    """Another process that is at work in a folder until it is killed."""

    def __init__(self, folder: Path) -> None:
        ready, tell = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            with only_run_in(folder):
                os.write(tell, b"!")
                signal.pause()
        os.read(ready, 1)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


@pytest.fixture
def folder(tmp_path: Path):
    folder = tmp_path / "run"
    neighbour = Neighbour(folder)
    yield folder
    neighbour.kill()


def test_the_second_run_in_a_folder_is_refused_with_process_and_host(folder, reward_model, tokenizer, chat_pairs):
    one = spy(reward_model, tokenizer, chat_pairs, folder, max_steps=1)
    with pytest.raises(ConfigurationError, match=r'is in use by another run \({"pid": \d+, "host": "[^"]+"}\)'):
        one.train()
    with pytest.raises(ConfigurationError, match="is in use by another run"):
        check_no_other_run(folder)
    assert [path.name for path in folder.iterdir()] == [LOCK]


def test_the_command_says_so_before_it_reads_any_data(folder, causal_folder, tmp_path, capsys):
    argv = ["--model_name_or_path", str(causal_folder), "--dataset_name", str(tmp_path / "absent.jsonl")]
    (tmp_path / "absent.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    assert train([*argv, "--output_dir", str(folder)]) == 2
    assert "is in use by another run" in capsys.readouterr().err


def test_the_lock_of_a_killed_run_is_taken_over_and_removed_at_the_end(
    reward_model, tokenizer, chat_pairs, tmp_path, caplog
):
    Neighbour(tmp_path).kill()
    assert (tmp_path / LOCK).is_file()
    check_no_other_run(tmp_path)
    one = spy(reward_model, tokenizer, chat_pairs, tmp_path, max_steps=1)
    one.train()
    assert f'{LOCK} was left by a run that has ended ({{"pid": ' in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


def test_a_run_may_lock_its_own_folder_again_and_keeps_it_until_the_outer_end(tmp_path):
    with only_run_in(tmp_path):
        with only_run_in(tmp_path):
            check_no_other_run(tmp_path)

        def intrude() -> None:
            import hf_reward.training.folder_lock as module

            module._held.clear()
            try:
                check_no_other_run(tmp_path)
            except ConfigurationError:
                os._exit(2)

        assert os.WEXITSTATUS(in_a_child(intrude)) == 2
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_half_written_is_removed_and_never_uploaded(
    reward_model, tokenizer, chat_pairs, tmp_path
):
    left = tmp_path / "_tmp-checkpoint-7-abcdef00"
    left.mkdir()
    (left / "model.safetensors").write_text("half")
    from fnmatch import fnmatch

    # The pattern by which the Trainer leaves files out of what it uploads.
    assert fnmatch(f"{left.name}/model.safetensors", "_*")
    assert fnmatch(LOCK, "_*")
    spy(reward_model, tokenizer, chat_pairs, tmp_path, max_steps=1).train()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
