"""A NaN or Inf stops the run before the weights are touched; each really put in."""

import copy
import math
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hf_reward import ConfigurationError, RewardConfig, RewardTrainer
from hf_reward.errors import RunError
from hf_reward.training.checkpoints import newest_complete


def trainer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, data: Dataset, folder: Path, **settings):
    config = {
        "output_dir": str(folder),
        "use_cpu": True,
        "report_to": "none",
        "gradient_checkpointing": False,
        "per_device_train_batch_size": 1,
        "train_sampling_strategy": "sequential",
        "num_train_epochs": 1,
        "logging_steps": 1,
        "save_steps": 2,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
    }
    return RewardTrainer(model, RewardConfig(**(config | settings)), train_dataset=data, processing_class=tokenizer)


def put(one: RewardTrainer, margins: dict[int, float]) -> None:
    """Margins by row, at the level of the interface, where no reader checks them."""
    values = [margins.get(row, 0.0) for row in range(len(one.train_dataset))]
    one.train_dataset = one.train_dataset.add_column("margin", values)


class BeforeEachStep(RewardTrainer):
    """Remembers the weights as they were before the last optimizer step that was tried."""

    before: dict[str, torch.Tensor]

    def training_step(self, *args, **kwargs):
        if self.accelerator.sync_gradients or not hasattr(self, "before"):
            self.before = copy.deepcopy(self.model.state_dict())
        return super().training_step(*args, **kwargs)


@pytest.mark.parametrize(("margin", "accumulation", "step"), [(math.nan, 1, 4), (math.inf, 1, 4), (math.nan, 3, 2)])
def test_a_loss_that_is_not_finite_stops_before_the_step(
    margin: float, accumulation: int, step: int, reward_model, tokenizer, chat_pairs, tmp_path
) -> None:
    one = trainer(
        reward_model, tokenizer, chat_pairs, tmp_path, gradient_accumulation_steps=accumulation, save_steps=1
    )
    put(one, {3: margin})
    one.__class__ = BeforeEachStep
    with pytest.raises(RunError, match=rf"loss of optimizer step {step} is not finite \(rank 0: rows 3 of the prep"):
        one.train()
    assert one.state.global_step == step - 1
    for name, weight in one.model.state_dict().items():
        assert torch.equal(weight, one.before[name]), name
        assert torch.isfinite(weight).all(), name
    last, _ = newest_complete(tmp_path, verify="full")
    assert last == tmp_path / f"checkpoint-{step - 1}"
    saved = type(reward_model).from_pretrained(last)
    assert all(torch.isfinite(weight).all() for weight in saved.state_dict().values())


def test_an_infinite_weight_stops_before_the_first_step(reward_model, tokenizer, chat_pairs, tmp_path) -> None:
    with torch.no_grad():
        reward_model.score.weight[0, 0] = math.inf
    before = copy.deepcopy(reward_model.state_dict())
    with pytest.raises(RunError, match="optimizer step 1 is not finite"):
        trainer(reward_model, tokenizer, chat_pairs, tmp_path).train()
    for name, weight in reward_model.state_dict().items():
        assert torch.equal(weight, before[name]), name


@pytest.mark.parametrize("max_grad_norm", [1.0, 0.0])
def test_a_gradient_that_is_not_finite_stops_while_the_loss_is_fine(
    max_grad_norm: float, reward_model, tokenizer, chat_pairs, tmp_path
) -> None:
    one = trainer(reward_model, tokenizer, chat_pairs, tmp_path, max_grad_norm=max_grad_norm)
    one.model.model.norm.weight.register_hook(lambda gradient: gradient * math.nan)
    before = copy.deepcopy(one.model.state_dict())
    with pytest.raises(RunError, match=r"gradient norm of optimizer step 1 is not finite \(rank 0: rows 0 of"):
        one.train()
    for name, weight in one.model.state_dict().items():
        assert torch.equal(weight, before[name]), name


def test_as_many_steps_as_asked_for_are_left_out(reward_model, tokenizer, chat_pairs, tmp_path, caplog) -> None:
    one = trainer(copy.deepcopy(reward_model), tokenizer, chat_pairs, tmp_path / "one", skip_non_finite_steps=2)
    put(one, {2: math.nan, 5: math.nan})
    one.train()
    assert (one.state.global_step, one.skipped_steps) == (7, 2)
    where = "step 3 is not finite (rank 0: rows 2 of the prepared training data)"
    assert f"{where}; the step is left out (1 of at most 2)" in caplog.text
    # The weights are those of a run without the two rows: neither weights nor moments moved.
    other = trainer(copy.deepcopy(reward_model), tokenizer, chat_pairs.select([0, 1, 3, 4, 6]), tmp_path / "other")
    other.train()
    for name, weight in other.model.state_dict().items():
        assert torch.equal(one.model.state_dict()[name], weight), name
    losses = [entry["loss"] for entry in one.state.log_history if "loss" in entry]
    assert all(map(math.isfinite, losses))
    assert losses[2] == losses[5] == 0.0
    assert math.isfinite(one.state.log_history[-1]["train_loss"])


def test_one_more_than_asked_for_ends_the_run(reward_model, tokenizer, chat_pairs, tmp_path) -> None:
    one = trainer(reward_model, tokenizer, chat_pairs, tmp_path, skip_non_finite_steps=1)
    put(one, {2: math.nan, 5: math.nan})
    with pytest.raises(RunError, match=r"step 6 is not finite .* 1 such steps were left out before"):
        one.train()


def test_nothing_is_reduced_or_read_in_a_micro_step(reward_model, tokenizer, chat_pairs, tmp_path) -> None:
    one = trainer(reward_model, tokenizer, chat_pairs.select(range(6)), tmp_path, gradient_accumulation_steps=3)
    calls = []
    check = one._finite
    one._finite = lambda norm: calls.append(len(one._micro_steps)) or check(norm)
    one.train()
    assert calls == [3, 3]
    assert one._micro_steps == []


def test_a_negative_number_of_steps_is_refused(tmp_path) -> None:
    with pytest.raises(ConfigurationError, match="`skip_non_finite_steps`: found -1; expected a whole number, 0 or"):
        RewardConfig(output_dir=str(tmp_path), skip_non_finite_steps=-1)


ON_ONE_RANK = """
    import math, sys
    import torch
    from datasets import load_from_disk
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from hf_reward import RewardConfig, RewardTrainer
    from hf_reward.errors import RunError

    folder = sys.argv[1]
    trainer = RewardTrainer(
        AutoModelForSequenceClassification.from_pretrained(f"{folder}/model"),
        RewardConfig(
            output_dir=f"{folder}/run", use_cpu=True, report_to="none", gradient_checkpointing=False, max_steps=3,
            per_device_train_batch_size=1, train_sampling_strategy="sequential", save_steps=1, disable_tqdm=True,
        ),
        train_dataset=load_from_disk(f"{folder}/data"),
        processing_class=AutoTokenizer.from_pretrained(f"{folder}/model"),
    )
    # Two rows a step: row 3 is the one that the second process sees in the second step.
    margins = [math.nan if row == 3 else 0.0 for row in range(7)]
    trainer.train_dataset = trainer.train_dataset.add_column("margin", margins)
    try:
        trainer.train()
    except RunError as error:
        rank = trainer.accelerator.process_index
        open(f"{folder}/rank{rank}", "w").write(f"{trainer.state.global_step} {error}")
    # Left to the end of the interpreter, gloo may abort when the other process is gone first.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
"""


@pytest.mark.distributed
def test_all_processes_stop_when_one_of_them_has_a_nan(reward_model, tokenizer, chat_pairs, tmp_path) -> None:
    reward_model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    chat_pairs.save_to_disk(tmp_path / "data")
    (tmp_path / "script.py").write_text(textwrap.dedent(ON_ONE_RANK))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launcher, str(tmp_path / "script.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=170,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = [(tmp_path / f"rank{rank}").read_text() for rank in (0, 1)]
    assert said[0] == said[1]
    assert said[0].startswith("1 The loss of optimizer step 2 is not finite (rank 1: rows 3 of the prepared")
    last, skipped = newest_complete(tmp_path / "run", verify="full")
    assert (last, skipped) == (tmp_path / "run" / "checkpoint-1", {})
    names = {path.name for path in last.iterdir()}
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= names
