"""RewardScorer: load a reward model and score conversations or texts with the very rewards of training."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_reward.data.encoding import close_text
from hf_reward.errors import ConfigurationError, DataError
from hf_reward.modeling.adapters import base_model as classifier_of
from hf_reward.modeling.adapters import find_base_model
from hf_reward.modeling.loading import embedding_rows, load_reward_model
from hf_reward.modeling.score_head import (
    bind_reward_forward,
    keep_head_in_float32,
    last_token_positions,
    reads_last_token,
)
from hf_reward.modeling.tokenizer import load_tokenizer


logger = logging.getLogger(__name__)

Conversation = list[dict[str, Any]]


class RewardScorer:
    """
    Rewards of conversations or texts.

    A model that was saved here is read at the last token of what its own chat template renders, with a float32 head,
    exactly as in training. A checkpoint made elsewhere is scored by its own forward; where the rule here would read
    another token, that is said once.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]): A sequence classifier with one output.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): Its tokenizer.
        own_forward (`bool`, *optional*, defaults to `False`): Score by the model's own forward.

    Examples:

    ```python
    from hf_reward import RewardScorer

    scorer = RewardScorer.from_pretrained("path/to/model")
    scorer.score([[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]])
    ```
    """

    def __init__(
        self, model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, own_forward: bool = False
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self._own_forward = own_forward
        self._warned = False
        if not own_forward:
            bind_reward_forward(classifier_of(model))

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        revision: str | None = None,
        dtype: torch.dtype | str = torch.float32,
        device: torch.device | str | None = None,
        trust_remote_code: bool = False,
        base_model: str | Path | None = None,
        **init_kwargs: Any,
    ) -> "RewardScorer":
        """
        Load a reward model, or an adapter with the model that it belongs to.

        Args:
            name_or_path (`str` or `Path`): Folder or Hub id.
            revision (`str`, *optional*): Branch, tag or commit on the Hub.
            dtype (`torch.dtype` or `str`, *optional*, defaults to `torch.float32`): Type of the weights.
            device (`torch.device` or `str`, *optional*): Defaults to the accelerator if there is one. A model that a
                `device_map` has put somewhere stays there.
            trust_remote_code (`bool`, *optional*, defaults to `False`): Allow code that the checkpoint ships.
            base_model (`str` or `Path`, *optional*): The model that an adapter belongs to, where the adapter does not
                name it or it lies elsewhere now.
            init_kwargs: Passed on to `from_pretrained`.

        Raises:
            `ConfigurationError`: Nothing there can be loaded as a reward model.
        """
        name = str(name_or_path)
        tokenizer = load_tokenizer(name, revision, trust_remote_code)
        options = {"dtype": dtype, "trust_remote_code": trust_remote_code, **init_kwargs}
        adapter = _adapter_config(name, revision)
        if adapter is None:
            model: PreTrainedModel | PeftModel = load_reward_model(
                name, revision=revision, allow_fresh_head=False, **options
            )
        else:
            base = find_base_model(adapter.base_model_name_or_path, name) if base_model is None else str(base_model)
            model = _with_adapter(name, base, adapter.revision, revision, len(tokenizer), options)
        device = device or (torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu")
        ours = getattr(model.config, "hf_reward_version", None) is not None or adapter is not None
        if getattr(classifier_of(model), "hf_device_map", None) is None and init_kwargs.get("device_map") is None:
            model.to(device)  # type: ignore[arg-type]  # transformers wraps `to`; checkers take `device` for `self`
        return cls(model, tokenizer, own_forward=not ours)

    def score(
        self, inputs: Sequence[Conversation] | Sequence[str] | Conversation | str, batch_size: int = 8
    ) -> list[float]:
        """
        Reward of each conversation (a list of messages) or text.

        Args:
            inputs: Conversations or texts, or one of them alone.
            batch_size (`int`, *optional*, defaults to 8): Sequences of one forward pass; the rewards do not depend
                on it beyond rounding.

        Returns:
            `list[float]`: One reward each, in the order of the inputs.

        Raises:
            `DataError`: An input is empty, or neither a conversation nor a text.
        """
        rows = [self.encode(item, number) for number, item in enumerate(_as_list(inputs))]
        longest_first = sorted(range(len(rows)), key=lambda index: -len(rows[index]))
        rewards: dict[int, float] = {}
        batches = [longest_first[start : start + batch_size] for start in range(0, len(rows), batch_size)]
        for batch in tqdm(batches, desc="Scoring", unit="batch", disable=len(batches) < 10):
            rewards |= zip(batch, self.score_ids([rows[index] for index in batch]).tolist(), strict=True)
        return [rewards[index] for index in range(len(rows))]

    def encode(self, item: Conversation | str, number: int = 0) -> list[int]:
        """Token ids of one conversation or text, as in training."""
        ids: Any
        if isinstance(item, str):
            ids = close_text(self.tokenizer(item)["input_ids"], self.tokenizer)
        elif isinstance(item, list) and item and all(isinstance(message, dict) for message in item):
            if self.tokenizer.chat_template is None:
                raise ConfigurationError(
                    "The tokenizer has no chat template, so conversations cannot be scored; give texts."
                )
            ids = self.tokenizer.apply_chat_template(item, tokenize=True, return_dict=False)
        else:
            raise DataError(
                f"Input {number} is {item!r:.60}; expected a text, or a conversation: "
                "a list of messages with `role` and `content`."
            )
        if not ids:
            raise DataError(f"Input {number} has no token.")
        return list(ids)

    @torch.no_grad()
    def score_ids(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """
        Rewards of tokenised sequences in one forward pass.

        Shape:
            `rows`: S sequences of any length; result: (S,), float32.
        """
        device = next(self.model.parameters()).device
        if device.type == "meta":  # the weights lie on disk, and accelerate brings the inputs to where it works
            device = torch.device("cpu")
        lengths = torch.tensor([len(row) for row in rows])
        input_ids = torch.full((len(rows), int(lengths.max())), self.tokenizer.pad_token_id or 0)
        for number, row in enumerate(rows):
            input_ids[number, : len(row)] = torch.as_tensor(row)
        mask = (torch.arange(input_ids.shape[1]) < lengths.unsqueeze(1)).long()
        batch = {"input_ids": input_ids.to(device), "attention_mask": mask.to(device)}
        if self._own_forward:
            return self._score_by_own_forward(batch)
        positions = last_token_positions(batch["attention_mask"])
        rewards: Tensor = self.model(**batch, reward_positions=positions).logits
        return rewards.float()

    def _score_by_own_forward(self, batch: dict[str, Tensor]) -> Tensor:
        """What the checkpoint itself returns; row by row if it has no pad token to find the ends by."""
        pad = self.model.config.get_text_config().pad_token_id
        if reads_last_token(self.model) and not self._warned:
            last = last_token_positions(batch["attention_mask"])
            read = last_token_positions((batch["input_ids"] != pad).long()) if pad is not None else last
            if not torch.equal(read, last):
                self._warned = True
                logger.warning(
                    "this checkpoint was not saved by hf_reward; its own forward reads another token than the last "
                    "one (its pad token stands there)"
                )
        if pad is None:
            rows = zip(batch["input_ids"], batch["attention_mask"].sum(dim=1).tolist(), strict=True)
            return torch.stack([self.model(input_ids=row[None, :length]).logits[0, 0] for row, length in rows]).float()
        logits: Tensor = self.model(**batch).logits
        return logits.squeeze(-1).float()


def _as_list(inputs: Any) -> list[Any]:
    """Several inputs as a list; one text or one conversation becomes a list of one."""
    one = isinstance(inputs, str) or (isinstance(inputs, list) and bool(inputs) and isinstance(inputs[0], dict))
    return [inputs] if one else list(inputs)


def _adapter_config(name: str, revision: str | None) -> PeftConfig | None:
    """The adapter config of a folder or Hub id, if it holds an adapter and no whole model."""
    if Path(name).is_dir() and not (Path(name) / "adapter_config.json").is_file():
        return None
    try:
        config: PeftConfig = PeftConfig.from_pretrained(name, revision=revision)
    except (OSError, ValueError):
        return None
    return config


def _with_adapter(
    name: str, base_model: str, base_revision: str | None, revision: str | None, tokens: int, options: dict[str, Any]
) -> PeftModel:
    try:
        base = load_reward_model(base_model, revision=base_revision, **options)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"The adapter in {name!r} belongs to the model {base_model!r}, which could not be loaded; say where it is "
            f"by `base_model`. {error}"
        ) from error
    if tokens > embedding_rows(base):
        base.resize_token_embeddings(tokens)
    # Before the adapter is laid on, so that its copy of the head is kept, and computes, in float32 too.
    keep_head_in_float32(base)
    bind_reward_forward(base)
    return PeftModel.from_pretrained(base, name, revision=revision)
