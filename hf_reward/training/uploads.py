"""Checkpoints on the Hub while a run goes on: uploaded from their own folders, which are whole."""

from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from transformers.trainer_utils import HubStrategy
from transformers.utils.hub import PushInProgress


# What a run needs to go on, and a reader of the model does not.
_STATE = (
    *("optimizer*", "scheduler.pt", "scaler.pt", "rng_state*", "trainer_state.json", "asked.json", "manifest.json"),
    *("global_step*", "latest", "zero_to_fp32.py", "pytorch_model_fsdp*"),
)


def upload_checkpoint(trainer: Any, folder: Path) -> None:
    """
    Upload the model of a checkpoint in the background, and what `args.hub_strategy` asks for beside it.

    A push that is still under way is not followed by another, unless `args.hub_always_push` is set.

    Args:
        trainer ([`RewardTrainer`]): On its first process.
        folder (`Path`): A complete checkpoint.
    """
    args = trainer.args
    busy = trainer.push_in_progress is not None and not trainer.push_in_progress.is_done()
    if args.hub_strategy == HubStrategy.END or (busy and not args.hub_always_push):
        return
    trainer.callback_handler.on_push_begin(args, trainer.state, trainer.control)
    where = {"repo_id": trainer.hub_model_id, "folder_path": str(folder), "revision": args.hub_revision}
    message = f"Training in progress, step {trainer.state.global_step}"
    api = HfApi(token=args.hub_token)
    jobs: list[Any] = [
        api.upload_folder(**where, commit_message=message, ignore_patterns=list(_STATE), run_as_future=True)
    ]
    if args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
        name = "last-checkpoint" if args.hub_strategy == HubStrategy.CHECKPOINT else folder.name
        message += ", checkpoint"
        jobs.append(api.upload_folder(**where, path_in_repo=name, commit_message=message, run_as_future=True))
    if busy:
        jobs += trainer.push_in_progress.jobs
    trainer.push_in_progress = PushInProgress(jobs)  # type: ignore[arg-type]  # a list, as the Trainer gives it
