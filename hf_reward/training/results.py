"""What lies beside the checkpoint: metrics, the data report, plots, the best and worst pairs, and the card."""

import itertools
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel

from hf_reward.config import DataArguments, ModelArguments
from hf_reward.data.collator import PreferenceCollator
from hf_reward.errors import RunError
from hf_reward.evaluation.pairs import ScoredPair, best_and_worst
from hf_reward.files import write_json
from hf_reward.modeling.score_head import completion_rewards
from hf_reward.training.samples import read_pair
from hf_reward.training.trainer import RewardTrainer


logger = logging.getLogger(__name__)

# A saved adapter must give the rewards of training up to the rounding of float32 sums.
RELOAD_TOLERANCE = 1e-5


def evaluate(trainer: RewardTrainer, datasets: Any) -> tuple[dict[str, float], list[ScoredPair]]:
    """
    Score every evaluation set once: exact metrics, written and logged, and every pair with its rewards.

    Returns:
        Metrics with the prefix `eval_`, for named sets `eval_` and the name, and the pairs as text in the order of the
        sets; both empty without a set.
    """
    if datasets is None:
        return {}, []
    metrics: dict[str, float] = {}
    scored: list[ScoredPair] = []
    named = datasets if isinstance(datasets, dict) else {"": datasets}
    for name, dataset in named.items():
        output = trainer.predict(dataset, metric_key_prefix=f"eval_{name}".rstrip("_"))
        metrics |= output.metrics or {}
        scored += scored_pairs(trainer, dataset, np.asarray(output.predictions))
    trainer.log(dict(metrics))
    trainer.save_metrics("eval", metrics)
    trainer.save_state()
    return metrics, scored


def scored_pairs(trainer: RewardTrainer, dataset: Dataset, rewards: np.ndarray) -> list[ScoredPair]:
    """Pairs as text with their rewards; `rewards` is (pairs, 2), chosen then rejected."""
    return [
        read_pair(row, values, trainer.processing_class, index)
        for index, (row, values) in enumerate(zip(dataset, rewards, strict=True))
    ]


def save_reward_statistics(trainer: RewardTrainer, scored: list[ScoredPair]) -> None:
    """Put mean and standard deviation of the evaluation rewards into the saved config, for later normalisation."""
    model = trainer.model
    if not scored or isinstance(model, PeftModel):
        return
    rewards = np.array([[pair.chosen_reward, pair.rejected_reward] for pair in scored])
    model.config.reward_mean, model.config.reward_std = float(rewards.mean()), float(rewards.std())
    if trainer.is_world_process_zero():
        model.config.save_pretrained(trainer.args.output_dir)


def check_saved_adapter(trainer: RewardTrainer) -> None:
    """
    Load the adapter that was just saved beside the one that was trained, and compare the rewards.

    Raises:
        `RunError`: They differ; what lies on disk is not what was trained.
    """
    model = trainer.model
    if not isinstance(model, PeftModel) or trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        return
    if not trainer.is_world_process_zero():
        return  # the first process has written it; the others may run ahead of it, or be on another machine
    collate = PreferenceCollator(trainer.processing_class.pad_token_id)
    train: Any = trainer.train_dataset
    rows = list(itertools.islice(train, 4))
    batch = trainer._prepare_inputs(collate(rows))
    active = model.active_adapter
    model.eval()
    with torch.no_grad(), trainer.reward_forward():
        trained = completion_rewards(model, batch)
        model.load_adapter(trainer.args.output_dir, adapter_name="saved", is_trainable=False)
        model.set_adapter("saved")
        saved = completion_rewards(model, batch)
    model.set_adapter(active)
    model.delete_adapter("saved")
    difference = (trained - saved).abs().max().item()
    logger.info("adapter: saved, loaded again, and compared: rewards differ by at most %.1e", difference)
    if not difference <= RELOAD_TOLERANCE * max(1.0, trained.abs().max().item()):
        raise RunError(
            f"The adapter in {trainer.args.output_dir!r} gives other rewards than the one that was trained (largest "
            f"difference {difference:.2e}). Do not use it; the checkpoints of this run are not affected."
        )


def write_results(
    trainer: RewardTrainer,
    data_args: DataArguments,
    model_args: ModelArguments,
    report: dict[str, Any],
    train_metrics: dict[str, float],
    eval_metrics: dict[str, float],
    scored: list[ScoredPair],
) -> tuple[list[ScoredPair], list[ScoredPair]]:
    """Write the data report, the plots and the card; return the best and the worst pairs."""
    from hf_reward.evaluation.plots import plot_data_report, plot_rewards, plot_training
    from hf_reward.hub.observed import observe

    best, worst = best_and_worst(scored)
    if not trainer.is_world_process_zero():
        return best, worst
    folder = Path(trainer.args.output_dir)
    write_json(report, folder / "data_report.json")
    plots = [
        plot_training(trainer.state.log_history, folder / "training.png"),
        plot_rewards([p.chosen_reward for p in scored], [p.rejected_reward for p in scored], folder / "rewards.png"),
        plot_data_report(report, folder / "data.png"),
    ]
    trainer.card_facts = observe(
        trainer,
        data_args,
        model_args,
        report,
        train_metrics,
        eval_metrics,
        best,
        worst,
        [plot.name for plot in plots if plot is not None],
    )
    trainer.create_model_card()
    return best, worst
