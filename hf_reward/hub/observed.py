"""What a trainer's run is observed to have been, as the facts of a model card."""

import platform
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel

from hf_reward import __version__
from hf_reward.config import DataArguments, ModelArguments, RewardConfig
from hf_reward.evaluation.pairs import ScoredPair
from hf_reward.hub.facts import CardFacts, dataset_label, public_name
from hf_reward.modeling.adapters import base_model
from hf_reward.modeling.score_head import reads_last_token


LIBRARIES = ("torch", "transformers", "accelerate", "datasets", "peft", "tokenizers")
# What a card says elsewhere, or what concerns the machine and not the model.
UNINTERESTING = {"output_dir", "seed", "max_length", "report_to", "run_name", "push_to_hub", "hub_model_id", "use_cpu"}


def observe(
    trainer: Any,
    data_args: DataArguments,
    model_args: ModelArguments,
    report: dict[str, Any],
    train_metrics: dict[str, float],
    eval_metrics: dict[str, float],
    best: list[ScoredPair],
    worst: list[ScoredPair],
    plots: list[str],
) -> CardFacts:
    """Gather the facts of a whole run."""
    names = [spec.name for spec in data_args.train_specs()]
    facts = observe_trainer(trainer)
    return replace(
        facts,
        base_model=public_name(model_args.model_name_or_path),
        from_scratch=model_args.from_scratch,
        datasets=[dataset_label(name) for name in names],
        data_report=report,
        eval_metrics=eval_metrics,
        eval_split=data_args.dataset_test_split,
        train_metrics={**facts.train_metrics, **train_metrics},
        best=best,
        worst=worst,
        plots=plots,
    )


def observe_trainer(trainer: Any) -> CardFacts:
    """Gather what a trainer alone knows, for a script that has no recipe."""
    from hf_reward.training.mode import describe_mode

    args: RewardConfig = trainer.args
    model: PreTrainedModel | PeftModel = trainer.model
    adapter = None
    if isinstance(model, PeftModel):
        config = model.peft_config[model.active_adapter]
        adapter = {
            name: getattr(config, name)
            for name in ("r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora")
            if getattr(config, name, None) not in (None, False)
        }
    base = base_model(model)
    last = [entry for entry in trainer.state.log_history if "train_loss" in entry][-1:]
    return CardFacts(
        model_name=args.hub_model_id or args.output_dir,
        hub_model_id=args.hub_model_id,
        base_model=public_name(base.config._name_or_path),
        eval_metrics=_last_evaluation(trainer.state.log_history),
        train_metrics={
            **(last[0] if last else {}),
            "steps": trainer.state.global_step,
            "num_pairs": trainer.counters.num_pairs,
            "num_tokens": trainer.counters.num_tokens,
        },
        hyperparameters={name: value for name, value in args.given().items() if name not in UNINTERESTING},
        seed=args.seed,
        hardware=f"{trainer.mode or describe_mode(trainer)} ({platform.machine()})",
        dtype=str(base.dtype).removeprefix("torch."),
        adapter=adapter,
        is_adapter=adapter is not None,
        is_encoder=not reads_last_token(base),
        has_chat_template=trainer.processing_class.chat_template is not None,
        max_length=args.max_length,
        reward_mean=getattr(base.config, "reward_mean", None),
        reward_std=getattr(base.config, "reward_std", None),
        versions={"hf_reward": __version__, **_versions()},
    )


def _last_evaluation(log_history: list[dict[str, Any]]) -> dict[str, Any]:
    return next((entry for entry in reversed(log_history) if "eval_accuracy" in entry), {})


def _versions() -> dict[str, str]:
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found
