"""The story of a run: from settings to a trained, saved, evaluated and described reward model."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.trainer_utils import get_last_checkpoint

from hf_reward.config import DataArguments, ModelArguments, RewardConfig
from hf_reward.errors import ConfigurationError
from hf_reward.files import check_writable
from hf_reward.modeling.adapters import lora_config
from hf_reward.modeling.loading import load_config, load_reward_model, longest_input
from hf_reward.modeling.quantization import quantization_config
from hf_reward.modeling.tokenizer import load_tokenizer
from hf_reward.training.callbacks import CountFromTheStart
from hf_reward.training.checkpoints import clear_leftovers, resolve_resume
from hf_reward.training.data import RunData, check_positions, load_data
from hf_reward.training.dry_run import DryRun, describe
from hf_reward.training.fingerprint import asked_of_data, check_decided
from hf_reward.training.folder_lock import check_no_other_run, only_run_in
from hf_reward.training.merged import check_can_merge, merge_trained
from hf_reward.training.mode import ModeCheck, check_world_size
from hf_reward.training.out_of_memory import advise_when_out_of_memory
from hf_reward.training.results import check_saved_adapter, evaluate, save_reward_statistics, write_results
from hf_reward.training.schedule import pairs_per_step
from hf_reward.training.setup import fit_tokenizer
from hf_reward.training.trainer import RewardTrainer


@dataclass
class RunResult:
    """
    What a run came to.

    Attributes:
        output_dir (`str`): Where the model, the tokenizer and everything about the run lie.
        train_metrics, eval_metrics (`dict`): As in `train_results.json` and `eval_results.json`.
        data_report (`dict`): As in `data_report.json`.
        best, worst (`list[ScoredPair]`): Evaluated pairs that the model gets most clearly right and wrong.
        dry_run (`DryRun`, *optional*): What would be done, when nothing was trained.
        data_only (`bool`): The data was prepared and stored, and that was all that was asked for.
    """

    output_dir: str
    train_metrics: dict[str, float] = field(default_factory=dict)
    eval_metrics: dict[str, float] = field(default_factory=dict)
    data_report: dict[str, Any] = field(default_factory=dict)
    best: list[Any] = field(default_factory=list)
    worst: list[Any] = field(default_factory=list)
    dry_run: DryRun | None = None
    data_only: bool = False


def run(args: RewardConfig, data_args: DataArguments, model_args: ModelArguments) -> RunResult:
    """
    Train a reward model.

    Nothing is written, and no model is loaded, before settings and data are known to be good.

    Raises:
        `ConfigurationError`: A setting cannot work.
        `DataError`: The data is not what preference data must be.
        `RunError`: What was saved does not give the rewards of training, or memory was not enough.
    """
    data_args.check_sources()
    check_output_folder(args)
    tokenizer = open_tokenizer(args, model_args)
    data = load_data(args, data_args, tokenizer)
    config = load_config(model_args.model_name_or_path, model_args.model_revision, args.trust_remote_code)
    check_positions(data, longest_input(config))
    if data_args.cache_dataset_only:
        return RunResult(args.output_dir, data_report=data.report, data_only=True)
    if args.resume_from_checkpoint:
        # What the model itself decides is compared when it is there.
        check_decided(Path(args.resume_from_checkpoint), asked_of_data(args, tokenizer, data.train, data.evaluation))
    if data_args.dry_run:
        return RunResult(
            args.output_dir, data_report=data.report, dry_run=describe(args, model_args, tokenizer, data.train)
        )
    with only_run_in(args.output_dir, args.process_index == 0), advise_when_out_of_memory(args, model_args.use_peft):
        return _train_and_describe(args, data_args, model_args, tokenizer, data)


def _train_and_describe(
    args: RewardConfig,
    data_args: DataArguments,
    model_args: ModelArguments,
    tokenizer: PreTrainedTokenizerBase,
    data: RunData,
) -> RunResult:
    trainer = build_trainer(args, model_args, tokenizer, data)
    trainer.add_callback(CountFromTheStart(data.streamed.get("train", {}).values()))
    train_metrics = train(trainer)
    data.report_training_stream()
    check_saved_adapter(trainer)
    if model_args.merge_adapter:
        merge_trained(trainer, model_args)
    eval_metrics, scored = evaluate(trainer, data.evaluation)
    save_reward_statistics(trainer, scored)
    best, worst = write_results(trainer, data_args, model_args, data.report, train_metrics, eval_metrics, scored)
    if args.push_to_hub:
        trainer.push_to_hub()
    return RunResult(args.output_dir, train_metrics, eval_metrics, data.report, best, worst)


def check_output_folder(args: RewardConfig) -> None:
    """See that the output folder can be written to and holds no other run's checkpoints."""
    check_writable(args.output_dir, "output_dir")
    if args.process_index == 0:
        check_no_other_run(args.output_dir)
        if args.resume_from_checkpoint:
            clear_leftovers(args.output_dir)
    folder = Path(args.output_dir)
    last = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    resume = args.resume_from_checkpoint
    if last is not None and resume is None:
        raise ConfigurationError(
            f"`output_dir` {args.output_dir!r} holds {Path(last).name} of an earlier run. Go on with it by "
            "`resume_from_checkpoint: true`, or choose another folder."
        )
    args.resume_from_checkpoint = resolve_resume(folder, resume)


def open_tokenizer(args: RewardConfig, model_args: ModelArguments) -> PreTrainedTokenizerBase:
    """Read the model's config and load and repair its tokenizer; the model itself is not loaded."""
    config = load_config(model_args.model_name_or_path, model_args.model_revision, args.trust_remote_code)
    tokenizer = load_tokenizer(
        model_args.tokenizer_name_or_path or model_args.model_name_or_path,
        model_args.tokenizer_revision or model_args.model_revision,
        args.trust_remote_code,
    )
    fit_tokenizer(tokenizer, args, config, args.trust_remote_code)
    # They are done now; the trainer would do them again.
    args.eos_token = args.pad_token = args.chat_template_path = None
    args.add_bos = False
    return tokenizer


def build_trainer(
    args: RewardConfig, model_args: ModelArguments, tokenizer: PreTrainedTokenizerBase, data: RunData
) -> RewardTrainer:
    """Load the model, and put model, adapter and data into a trainer whose mode is the one that was asked for."""
    if args.total_episodes is not None:
        args.max_steps = max(1, args.total_episodes // pairs_per_step(args))
    model = load_reward_model(
        model_args.model_name_or_path,
        revision=model_args.model_revision,
        from_scratch=model_args.from_scratch,
        seed=args.seed,
        score_head_init=args.score_head_init,
        trust_remote_code=args.trust_remote_code,
        dtype=model_args.dtype,
        attn_implementation=model_args.attn_implementation,
        quantization_config=quantization_config(model_args),
    )
    trainer = RewardTrainer(
        model,
        args,
        train_dataset=data.train,
        eval_dataset=data.evaluation,
        processing_class=tokenizer,
        peft_config=lora_config(model_args),
    )
    check_world_size(trainer)
    trainer.add_callback(ModeCheck(trainer))
    if model_args.merge_adapter:
        check_can_merge(trainer)
    return trainer


def train(trainer: RewardTrainer) -> dict[str, float]:
    """Train, save the model, and write the training metrics and the trainer's state beside it."""
    metrics = dict(trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint).metrics)
    metrics |= {"num_pairs": trainer.counters.num_pairs, "num_tokens": trainer.counters.num_tokens}
    # Not the public call: it would push before the card is written.
    trainer.save_model(_internal_call=True)
    trainer.save_metrics("train", metrics)
    trainer.save_state()
    return metrics
