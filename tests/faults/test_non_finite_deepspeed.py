"""A NaN on one of two DeepSpeed processes stops both before the engine's step, which runs inside the backward pass."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hf_reward.training.checkpoints import newest_complete


pytestmark = pytest.mark.distributed

ZERO_2 = {
    "zero_optimization": {"stage": 2, "overlap_comm": False, "contiguous_gradients": True},
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "train_batch_size": "auto",
    "gradient_clipping": "auto",
}

SCRIPT = """
    import copy, json, math, sys
    import deepspeed.ops
    import torch
    from datasets import load_from_disk
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from hf_reward import RewardConfig, RewardTrainer
    from hf_reward.errors import RunError

    # Nothing is compiled, which would take minutes: gloo alone communicates too.
    deepspeed.ops.__compatible_ops__ = {}
    folder = sys.argv[1]


    class Remembering(RewardTrainer):
        def training_step(self, model, *args, **kwargs):
            self.engine = type(model).__name__
            if model.is_gradient_accumulation_boundary() or not hasattr(self, "before"):
                self.before = copy.deepcopy(self.model.state_dict())
            return super().training_step(model, *args, **kwargs)


    trainer = Remembering(
        AutoModelForSequenceClassification.from_pretrained(f"{folder}/model"),
        RewardConfig(
            output_dir=f"{folder}/run", use_cpu=True, report_to="none", gradient_checkpointing=False, max_steps=4,
            per_device_train_batch_size=1, train_sampling_strategy="sequential", save_steps=2, disable_tqdm=True,
            learning_rate=1e-2, lr_scheduler_type="constant", logging_steps=1, skip_non_finite_steps=1,
            deepspeed=f"{folder}/zero2.json",
        ),
        train_dataset=load_from_disk(f"{folder}/data"),
        processing_class=AutoTokenizer.from_pretrained(f"{folder}/model"),
    )
    # Two rows a step. Row 1, of the second process's first step, is left out as `skip_non_finite_steps` allows; row 5,
    # of its third, is one too many.
    margins = [math.nan if row in (1, 5) else 0.0 for row in range(8)]
    trainer.train_dataset = trainer.train_dataset.add_column("margin", margins)
    first = copy.deepcopy(trainer.model.state_dict())
    said = ""
    try:
        trainer.train()
    except RunError as error:
        said = str(error)
    weights = trainer.model.state_dict()

    def moved(before):
        return sorted(name for name, weight in weights.items() if not torch.equal(weight, before[name]))

    found = {
        "said": said,
        "engine": trainer.engine,
        "stage": trainer.deepspeed.zero_optimization_stage(),
        "world": torch.distributed.get_world_size(),
        "step": trainer.state.global_step,
        "skipped": trainer.skipped_steps,
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "moved_by_the_last": moved(trainer.before),
        "moved_at_all": moved(first),
        "names": sorted(weights),
        "finite": all(torch.isfinite(weight).all().item() for weight in weights.values()),
    }
    rank = trainer.accelerator.process_index
    with open(f"{folder}/rank{rank}.json", "w") as file:
        json.dump(found, file)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
"""


@pytest.mark.timeout(330)
def test_a_nan_stops_two_zero_2_processes_before_the_engines_step(
    reward_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, chat_pairs: Dataset, tmp_path: Path
) -> None:
    reward_model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    chat_pairs.select([*range(7), 0]).save_to_disk(tmp_path / "data")
    (tmp_path / "zero2.json").write_text(json.dumps(ZERO_2))
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(
        [*launcher, str(tmp_path / "script.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert one == two
    assert (one["engine"], one["stage"], one["world"]) == ("DeepSpeedEngine", 2, 2)
    # The step that is left out counts as one of the run, as without DeepSpeed.
    assert (one["step"], one["skipped"]) == (2, 1)
    assert one["said"].startswith("The loss of optimizer step 3 is not finite (rank 1: rows 5 of the prepared")
    assert "1 such steps were left out before" in one["said"]
    assert "step 1 is not finite (rank 1: rows 1 of the prepared" in done.stderr
    assert one["moved_by_the_last"] == []
    # The second step, between the two, was made.
    assert one["moved_at_all"] == one["names"]
    assert one["finite"]
    last, skipped = newest_complete(tmp_path / "run", verify="full")
    assert (last, skipped) == (tmp_path / "run" / "checkpoint-2", {})
