"""From an adapter to a plain checkpoint, with the rewards before and after compared."""

import json
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_reward.errors import ConfigurationError, RunError
from hf_reward.inference.scorer import RewardScorer
from hf_reward.modeling.loading import load_reward_model, prepare_model
from hf_reward.modeling.score_head import keep_head_in_float32


logger = logging.getLogger(__name__)

# Merging a float32 adapter moves rewards by rounding alone.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class MergeCheck:
    """
    How well a merged checkpoint agrees with the adapter that it was made of.

    Attributes:
        rewards (`int`): Number of generated texts that were scored by both.
        largest (`float`): Largest difference of their rewards.
        spread (`float`): Standard deviation of the adapter's rewards, to compare the difference with.
        dtype (`str`): Number format of the merged weights.
    """

    rewards: int
    largest: float
    spread: float
    dtype: str

    def __str__(self) -> str:
        return (
            f"rewards of {self.rewards} generated texts differ by at most {self.largest:.1e} from the adapter's, "
            f"whose standard deviation is {self.spread:.2g} (weights in {self.dtype})"
        )


def merge_folder(
    adapter: str | Path,
    output_dir: str | Path,
    *,
    dtype: str = "float32",
    base_model: str | Path | None = None,
    trust_remote_code: bool = False,
    quantized: Tensor | None = None,
) -> MergeCheck:
    """
    Merge a saved adapter into its base model, and write a plain checkpoint with the tokenizer beside it.

    Merging computes in float32; only what is written is rounded to `dtype`.

    Args:
        adapter (`str` or `Path`): Folder or Hub id of the adapter.
        output_dir (`str` or `Path`): Folder that does not exist yet, or is empty.
        dtype (`str`, *optional*, defaults to `"float32"`): Number format of the merged weights.
        base_model (`str` or `Path`, *optional*): The base model, where the adapter does not name it.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Allow code that the base model ships.
        quantized (`torch.Tensor`, *optional*): Rewards of [`probe_rows`] by the adapter on its quantised base model,
            to compare with instead of those on the base model itself.

    Raises:
        `ConfigurationError`: There is no adapter, or the folder is in use.
        `RunError`: A float32 checkpoint gives other rewards than the adapter. Nothing is left in the folder.
    """
    target = Path(output_dir)
    if target.is_dir() and any(target.iterdir()):
        raise ConfigurationError(f"`output_dir` {str(target)!r} is not empty. Choose another folder.")
    scorer = RewardScorer.from_pretrained(
        adapter, base_model=base_model, trust_remote_code=trust_remote_code, device="cpu"
    )
    if not isinstance(scorer.model, PeftModel):
        raise ConfigurationError(
            f"{str(adapter)!r} holds no adapter (no adapter_config.json); there is nothing to merge."
        )
    before = rewards_of(scorer.model, scorer.tokenizer) if quantized is None else quantized
    merged = merge(scorer.model, scorer.tokenizer, dtype)
    _add_reward_statistics(merged, Path(adapter))
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as aside:
        written = Path(aside) / target.name
        merged.save_pretrained(written)
        scorer.tokenizer.save_pretrained(written)
        check = compare(before, written, scorer.tokenizer, dtype, exact=quantized is None)
        if target.is_dir():
            target.rmdir()
        written.rename(target)
    return check


def merge(model: PeftModel, tokenizer: PreTrainedTokenizerBase, dtype: str = "float32") -> PreTrainedModel:
    """Merge an adapter into its base model, in place; the plain model that is returned has the config of ours."""
    merged: PreTrainedModel = model.merge_and_unload(safe_merge=True)
    prepare_model(merged, tokenizer)
    merged.to(getattr(torch, dtype))
    keep_head_in_float32(merged)
    return merged


def compare(
    before: Tensor, folder: Path, tokenizer: PreTrainedTokenizerBase, dtype: str, exact: bool = True
) -> MergeCheck:
    """
    Load a merged checkpoint as any reader would, and compare its own forward's rewards with those before merging.

    Raises:
        `RunError`: It is a float32 checkpoint, `exact` is asked for, and the rewards differ by more than rounding.
    """
    model = load_reward_model(str(folder), allow_fresh_head=False)
    after = rewards_of(model, tokenizer, own_forward=True)
    check = MergeCheck(len(before), (before - after).abs().max().item(), before.std().item(), dtype)
    if exact and dtype == "float32" and not check.largest <= TOLERANCE * max(1.0, before.abs().max().item()):
        raise RunError(f"The merged model is not the adapter: {check}. It is not written; the adapter is untouched.")
    return check


def rewards_of(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, own_forward: bool = False
) -> Tensor:
    """Rewards of the [`probe_rows`], on the CPU; by the model's own forward if asked for."""
    scorer = RewardScorer(model, tokenizer, own_forward=own_forward)
    return scorer.score_ids(probe_rows(tokenizer)).cpu()


def probe_rows(tokenizer: PreTrainedTokenizerBase, rows: int = 16, longest: int = 48) -> list[list[int]]:
    """Token ids of generated texts, always the same for one tokenizer: words at random, closed as in training."""
    generator = torch.Generator().manual_seed(0)
    special = set(tokenizer.all_special_ids)
    words = torch.tensor([index for index in range(len(tokenizer)) if index not in special])
    closing = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    lengths = torch.randint(4, longest, (rows,), generator=generator).tolist()
    return [words[torch.randint(len(words), (length,), generator=generator)].tolist() + closing for length in lengths]


def _add_reward_statistics(model: PreTrainedModel, adapter: Path) -> None:
    """Mean and standard deviation of the evaluation rewards, if the adapter's run left them beside it."""
    results = adapter / "eval_results.json"
    if not results.is_file():
        return
    metrics = json.loads(results.read_text(encoding="utf-8"))
    try:
        mean = (metrics["eval_chosen_reward"] + metrics["eval_rejected_reward"]) / 2
        model.config.reward_mean, model.config.reward_std = mean, metrics["eval_reward_std"]
    except KeyError as error:
        logger.info("reward_mean and reward_std are not in the config: %s has no %s", results, error)
