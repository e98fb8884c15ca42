"""Nothing that a run reads can run code, and nothing that it writes holds a secret; each attack really made."""

import json
import os
import pickle
import sys
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers.trainer

from hf_reward import ConfigurationError, RewardConfig, run_training
from hf_reward.cli.train import main as train
from hf_reward.training.checkpoints import resolve_resume
from hf_reward.training.manifest import check_trusted, write_manifest
from tests.faults.test_resume import spy


class Evil:
    """Unpickled, it leaves a file: code of the attacker has run."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


@pytest.fixture
def marker(tmp_path: Path):
    """Where an attack that succeeds leaves its mark."""
    path = tmp_path / "marker"
    pickle.loads(pickle.dumps(Evil(path))).close()
    assert path.exists()
    path.unlink()
    yield path
    assert not path.exists()


@pytest.fixture
def one_step(reward_model, tokenizer, chat_pairs, tmp_path):
    """A trainer whose folder holds checkpoint-1, and that may go on to a second step."""
    settings = {"eval_strategy": "no", "load_best_model_at_end": False, "save_steps": 1}
    spy(reward_model, tokenizer, chat_pairs, tmp_path / "run", max_steps=1, **settings).train()
    return spy(reward_model, tokenizer, chat_pairs, tmp_path / "run", max_steps=2, **settings)


# ---- what is read ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
@pytest.mark.parametrize("with_manifest", [True, False])
def test_a_checkpoint_with_code_in_it_is_refused(name, with_manifest, one_step, marker, tmp_path) -> None:
    folder = tmp_path / "run" / "checkpoint-1"
    torch.save(Evil(marker), folder / name)
    (folder / "manifest.json").unlink()
    if with_manifest:  # an attacker writes one that fits
        write_manifest(folder, 1, 1, "NO")
    with pytest.raises(ConfigurationError, match="holds more than the plain values that a checkpoint consists of"):
        one_step.train(resume_from_checkpoint=True)


def test_pickled_weights_are_refused_in_a_checkpoint_and_as_a_model(
    one_step, marker, causal_folder, chat_pairs, tmp_path, capsys
) -> None:
    folder = tmp_path / "run" / "checkpoint-1"
    for place in (folder, causal_folder):
        (place / "model.safetensors").unlink()
        torch.save(Evil(marker), place / "pytorch_model.bin")
    (folder / "manifest.json").unlink()
    with pytest.raises(ConfigurationError, match=r"checkpoint-1: there are no weights \(safetensors\)"):
        resolve_resume(tmp_path / "run", True)
    with pytest.raises(ConfigurationError, match=r"there are no weights \(safetensors\)"):
        one_step.train(resume_from_checkpoint=str(folder))
    chat_pairs.to_json(tmp_path / "pairs.jsonl")
    argv = ["--model_name_or_path", str(causal_folder), "--dataset_name", str(tmp_path / "pairs.jsonl")]
    assert train([*argv, "--output_dir", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "cannot be loaded as a reward model" in error
    assert "safetensors" in error


@pytest.mark.parametrize("file", ["global_step1/mp_rank_00_model_states.pt", "pytorch_model_fsdp_0/.metadata"])
def test_files_that_are_unpickled_must_be_those_of_the_manifest(file: str, marker, tmp_path) -> None:
    folder = tmp_path / "checkpoint-1"
    (folder / file).parent.mkdir(parents=True)
    (folder / file).write_bytes(b"as it was saved")
    with pytest.raises(ConfigurationError, match=f"which can run code when they are read, and {file} is not in its"):
        check_trusted(folder)
    write_manifest(folder, 1, 2, "DEEPSPEED")
    check_trusted(folder)
    size = (folder / file).stat().st_size
    (folder / file).write_bytes(b"evil".ljust(size))
    with pytest.raises(ConfigurationError, match=f"{file} has the right size but other contents"):
        check_trusted(folder)
    (folder / file).write_bytes(b"as it was saved")
    (folder / "latest").write_text("../../elsewhere")
    with pytest.raises(ConfigurationError, match="latest is not in its manifest"):
        check_trusted(folder)


def test_a_trainer_checks_them_unless_code_is_trusted(one_step, tmp_path, monkeypatch) -> None:
    import hf_reward.training.whole_checkpoints as saving

    checked = []
    monkeypatch.setattr(saving, "check_trusted", checked.append)
    one_step.train(resume_from_checkpoint=True)
    assert checked == [tmp_path / "run" / "checkpoint-1"]
    one_step.args.trust_remote_code = True
    one_step.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-1"))
    assert len(checked) == 1


ATTACKS = {
    "class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ cycler.__init__.__globals__.os.system('touch MARKER') }}",
    "changes its input": "{% for m in messages %}{{ messages.append(m) }}{% endfor %}",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_template_that_reaches_for_python_is_refused(
    attack: str, marker, causal_folder, chat_pairs, tmp_path, capsys
) -> None:
    template = tmp_path / "evil.jinja"
    template.write_text(ATTACKS[attack].replace("MARKER", str(marker)) + "{{ messages[0].content }}{{ eos_token }}")
    chat_pairs.to_json(tmp_path / "pairs.jsonl")
    argv = ["--model_name_or_path", str(causal_folder), "--dataset_name", str(tmp_path / "pairs.jsonl")]
    argv += ["--output_dir", str(tmp_path / "out"), "--chat_template_path", str(template)]
    assert train(argv) == 2
    error = capsys.readouterr().err
    assert "chat template" in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_a_recipe_that_calls_python_is_refused(marker, tmp_path, capsys) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"output_dir: !!python/object/apply:os.system ['touch {marker}']\n")
    assert train([str(recipe)]) == 2
    assert "recipe.yaml" in capsys.readouterr().err


def test_code_that_a_checkpoint_ships_is_not_run_and_nobody_is_asked(
    marker, causal_folder, chat_pairs, tmp_path, capsys, monkeypatch
) -> None:
    config = json.loads((causal_folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "evil.Evil"}}
    (causal_folder / "config.json").write_text(json.dumps(config))
    (causal_folder / "evil.py").write_text(f"open({str(marker)!r}, 'w')\n")
    chat_pairs.to_json(tmp_path / "pairs.jsonl")
    monkeypatch.setattr(sys, "stdin", None)  # a question would fail
    monkeypatch.setattr("builtins.input", lambda *args: pytest.fail("a question was asked"))
    argv = ["--model_name_or_path", str(causal_folder), "--dataset_name", str(tmp_path / "pairs.jsonl")]
    assert train([*argv, "--output_dir", str(tmp_path / "out")]) == 2
    assert "ships code of its own, which is not run unless `trust_remote_code: true`" in capsys.readouterr().err


# ---- what is written ------------------------------------------------------------------------------------------------

GIVEN, IN_THE_ENVIRONMENT = "hf_" + "g" * 34, "hf_" + "e" * 34


class FakeHub:
    """Takes uploads, reading every file at once, as it is then."""

    def __init__(self) -> None:
        self.uploads: list[dict[str, Any]] = []

    def create_repo(self, name: str, **options: Any) -> Any:
        return type("RepoUrl", (), {"repo_id": name})()

    def upload_folder(self, *, folder_path: str, ignore_patterns=(), run_as_future=False, **options: Any) -> Any:
        from huggingface_hub.utils import filter_repo_objects

        folder = Path(folder_path)
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        kept = list(filter_repo_objects(names, ignore_patterns=list(ignore_patterns)))
        self.uploads.append(options | {"files": {name: (folder / name).read_bytes() for name in kept}})
        done: Future[str] = Future()
        done.set_result("done")
        return done if run_as_future else "done"


def test_no_token_and_no_pickle_is_written_logged_or_uploaded(
    causal_folder, chat_pairs, tmp_path, monkeypatch, capfd, caplog
) -> None:
    hub = FakeHub()
    monkeypatch.setattr(transformers.trainer, "hf_api", lambda: hub)
    monkeypatch.setattr("hf_reward.training.uploads.HfApi", lambda token: hub)
    monkeypatch.setenv("HF_TOKEN", IN_THE_ENVIRONMENT)
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    caplog.set_level("DEBUG")
    chat_pairs.to_json(tmp_path / "pairs.jsonl")
    rows = [row | {"prompt": [{"role": "user", "content": f"Now {i}?"}]} for i, row in enumerate(chat_pairs)]
    (tmp_path / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_training(
        model_name_or_path=str(causal_folder),
        dataset_name=str(tmp_path / "pairs.jsonl"),
        eval_dataset_name=str(tmp_path / "eval.jsonl"),
        output_dir=str(tmp_path / "out"),
        hub_token=GIVEN,
        model_init_kwargs={"token": GIVEN},
        push_to_hub=True,
        hub_model_id="people/reward",
        hub_strategy="all_checkpoints",
        report_to="tensorboard",
        max_steps=2,
        save_steps=1,
        logging_steps=1,
    )
    written = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    said = capfd.readouterr()
    texts = [*written.values(), said.out.encode(), said.err.encode(), caplog.text.encode()]
    texts += [content for upload in hub.uploads for content in upload["files"].values()]
    assert len(written) > 40
    for secret in (GIVEN, IN_THE_ENVIRONMENT):
        assert not [text[:200] for text in texts if secret.encode() in text]
    # What is pickled: the state of torch alone, which is read with `weights_only`.
    names = {path.name for path in written if path.suffix in (".bin", ".pt", ".pth", ".pkl")}
    assert names == {"optimizer.pt", "scheduler.pt", "rng_state.pth"}
    # Each checkpoint and its model while training went on, and the run at its end.
    pushed = [(upload.get("path_in_repo"), set(upload["files"])) for upload in hub.uploads]
    assert [path for path, _ in pushed] == [None, "checkpoint-1", None, "checkpoint-2", None]
    plain = {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert pushed[0][1] == plain
    assert {"optimizer.pt", "trainer_state.json", "manifest.json", "asked.json"} <= pushed[1][1]
    assert {"README.md", "model.safetensors"} <= pushed[-1][1]
    assert not [name for name in pushed[-1][1] if name.startswith(("checkpoint-", "_"))]


def test_a_message_with_a_token_in_it_is_printed_without(tmp_path, capsys) -> None:
    argv = ["--model_name_or_path", f"https://me:{GIVEN}@host/model", "--output_dir", str(tmp_path / "out")]
    argv += ["--dataset_name", str(tmp_path / "absent.jsonl"), "--debug"]
    assert train(argv) == 2
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert GIVEN not in error


def test_a_configuration_shows_no_token_however_deep_it_stands(tmp_path) -> None:
    config = RewardConfig(
        output_dir=str(tmp_path), hub_token=GIVEN, model_init_kwargs={"token": GIVEN, "revision": "v1"}
    )
    for shown in (repr(config), str(config), config.to_json_string(), json.dumps(config.given(), default=str)):
        assert GIVEN not in shown
    assert config.model_init_kwargs["token"] == GIVEN  # it is still used
    assert config.to_dict()["model_init_kwargs"] == {"revision": "v1"}


def test_names_from_the_data_write_nothing_outside_the_folder(causal_folder, chat_pairs, tmp_path) -> None:
    climbing = "../../../escaped"
    inside = tmp_path / "a" / "b" / "c"
    rows = [
        row | {"prompt": [{"role": "user", "content": f"{i}?"}], "subset": climbing}
        for i, row in enumerate(chat_pairs)
    ]
    for name, part in (("train", list(chat_pairs)), ("eval", rows)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    settings = {
        "model_name_or_path": str(causal_folder),
        "dataset_name": str(tmp_path / "train.jsonl"),
        "output_dir": str(inside / "out"),
        "max_steps": 1,
        "eval_sample_pairs": 1,
    }
    with pytest.raises(ConfigurationError, match="expected letters, digits and underscores"):
        run_training(**settings, eval_datasets={climbing: str(tmp_path / "eval.jsonl")})
    result = run_training(**settings, eval_dataset_name=str(tmp_path / "eval.jsonl"))
    assert f"eval_{climbing}_accuracy" in result.eval_metrics
    after = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert not [path for path in after if not path.is_relative_to(inside)]
    assert not [name for name in os.listdir(tmp_path) if "escaped" in name]
