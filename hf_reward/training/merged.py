"""`merge_adapter`: a run that trained an adapter ends with a plain model."""

import logging
from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from hf_reward.config import ModelArguments
from hf_reward.errors import ConfigurationError
from hf_reward.inference.merging import compare, merge, rewards_of
from hf_reward.inference.scorer import RewardScorer
from hf_reward.training.trainer import RewardTrainer


logger = logging.getLogger(__name__)

ADAPTER_FOLDER = "adapter"


def check_can_merge(trainer: RewardTrainer) -> None:
    """
    See, before training, that the adapter can be merged after it.

    Raises:
        `ConfigurationError`: The weights are spread over processes.
    """
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        raise ConfigurationError(
            "`merge_adapter`: found it with DeepSpeed or FSDP, which spread the weights over processes; expected "
            "`hf_reward-merge` after the run"
        )


def merge_trained(trainer: RewardTrainer, model_args: ModelArguments) -> None:
    """
    Merge the adapter that was trained and saved; `output_dir` holds the plain model then, `adapter` in it the adapter.

    The trainer goes on with the merged model, so that what is evaluated is what is shipped. A quantised base model is
    loaded again without quantisation. The difference of the rewards is measured on the saved files and logged.

    Raises:
        `RunError`: A float32 model gives other rewards than its adapter.
    """
    model, tokenizer = trainer.model, trainer.processing_class
    assert isinstance(model, PeftModel)
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    folder = Path(str(trainer.args.output_dir))
    base = model.get_base_model()
    quantized = bool(getattr(base, "is_quantized", False))
    dtype = model_args.dtype if model_args.dtype != "auto" else str(base.dtype).removeprefix("torch.")
    with trainer.reward_forward():
        before = rewards_of(model, tokenizer)
    if trainer.args.should_save:
        (folder / ADAPTER_FOLDER).mkdir(exist_ok=True)
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            (folder / name).rename(folder / ADAPTER_FOLDER / name)
        tokenizer.save_pretrained(folder / ADAPTER_FOLDER)
    trainer.accelerator.wait_for_everyone()
    if quantized:
        model = RewardScorer.from_pretrained(
            folder / ADAPTER_FOLDER,
            base_model=model_args.model_name_or_path,
            trust_remote_code=trainer.args.trust_remote_code,
            device=trainer.args.device,
        ).model
    trainer.model = trainer.model_wrapped = merge(model, tokenizer, dtype)
    trainer.save_model(_internal_call=True)
    if trainer.is_world_process_zero():
        logger.info("adapter merged: %s", compare(before, folder, tokenizer, dtype, exact=not quantized))
