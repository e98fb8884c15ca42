"""
Reward models for the Hugging Face stack: a number for an answer, learnt from pairs of which one was preferred.

    recipe.yaml -> cli -> training.run -> data -> collator -> model -> trainer + loss -> metrics -> evaluation -> card

Rooms, in the order in which data walks through them (each imports only those whose output it takes):

    cli         the commands: parse, call, print
    config      what can be set: RewardConfig, ModelArguments, DataArguments, the seed's names
    data        formats, loading, chat templates, tokenisation, the report, PreferenceCollator
    modeling    checkpoint -> backbone and float32 score head; where a reward is read; adapters
    losses      pure functions of rewards
    metrics     sums and counts
    training    RewardTrainer, and run_training, the story of a run
    evaluation  scored pairs, plots, tables
    inference   RewardScorer
    hub         the model card
    quickstart  a task and a model that need nothing else
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any


__version__ = "0.1.0"

_PUBLIC = {
    "ConfigurationError": "hf_reward.errors",
    "DataArguments": "hf_reward.config",
    "DataError": "hf_reward.errors",
    "ModelArguments": "hf_reward.config",
    "PreferenceCollator": "hf_reward.data.collator",
    "RewardConfig": "hf_reward.config",
    "RewardScorer": "hf_reward.inference.scorer",
    "RewardTrainer": "hf_reward.training.trainer",
    "load_reward_model": "hf_reward.modeling.loading",
    "run_training": "hf_reward.cli.train",
}

__all__ = [
    "ConfigurationError",
    "DataArguments",
    "DataError",
    "ModelArguments",
    "PreferenceCollator",
    "RewardConfig",
    "RewardScorer",
    "RewardTrainer",
    "load_reward_model",
    "run_training",
]

if TYPE_CHECKING:
    from hf_reward.cli.train import run_training
    from hf_reward.config import DataArguments, ModelArguments, RewardConfig
    from hf_reward.data.collator import PreferenceCollator
    from hf_reward.errors import ConfigurationError, DataError
    from hf_reward.inference.scorer import RewardScorer
    from hf_reward.modeling.loading import load_reward_model
    from hf_reward.training.trainer import RewardTrainer


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
