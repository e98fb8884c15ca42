"""Trains and evaluates on streams and writes down what each process saw; run by torchrun, or called in one process."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import load_from_disk
from transformers import AutoModelForSequenceClassification, AutoTokenizer, EvalPrediction

from hf_reward import RewardConfig, RewardTrainer


class Seeing(RewardTrainer):
    """Remembers the rows that count, by what their preferred side says, step by step."""

    seen: list[list[str]]

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        rows = zip(inputs["input_ids"], inputs["weight"].tolist(), strict=False)
        self.seen.append([self.processing_class.decode(ids) for ids, weight in rows if weight])
        return super().compute_loss(model, inputs, *args, **kwargs)


def train(folder: Path, batch_size: int) -> dict[str, Any]:
    """Six steps and two evaluations, of a stream of three files; returns what was seen and logged."""
    predictions: list[Any] = []

    def remember(output: EvalPrediction) -> dict[str, float]:
        predictions.append(np.asarray(output.predictions).tolist())
        return {}

    stream = load_from_disk(str(folder / "data")).to_iterable_dataset(num_shards=3)
    trainer = Seeing(
        AutoModelForSequenceClassification.from_pretrained(folder / "model"),
        RewardConfig(
            output_dir=str(folder / f"run{batch_size}"),
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            gradient_checkpointing=False,
            max_steps=6,
            logging_steps=1,
            eval_strategy="steps",
            eval_steps=3,
            learning_rate=1e-3,
            per_device_train_batch_size=batch_size,
            per_device_eval_batch_size=batch_size,
            batch_layout="padded",  # a row of the batch is one completion, which is what is remembered
        ),
        train_dataset=stream,
        eval_dataset=stream,
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        compute_metrics=remember,
    )
    trainer.seen = []
    trainer.train()
    return {
        "seen": trainer.seen,
        "history": trainer.state.log_history,
        "predictions": predictions,
        "weights": {name: weight.tolist() for name, weight in trainer.model.state_dict().items()},
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = train(Path(sys.argv[1]), batch_size=2)
    rank = torch.distributed.get_rank()
    (Path(sys.argv[1]) / f"rank{rank}.json").write_text(json.dumps(found))
    # Left to the end of the interpreter, gloo may abort when the other process is gone first.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
