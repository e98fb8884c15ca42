"""RewardScorer: load a reward model and score conversations or texts with the very rewards of training."""

import itertools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_reward.data.collator import PreferenceCollator
from hf_reward.data.encoding import close_text
from hf_reward.data.layouts import lay_out, shared_prompt_length
from hf_reward.errors import ConfigurationError, DataError
from hf_reward.modeling.adapters import base_model as classifier_of
from hf_reward.modeling.adapters import find_base_model
from hf_reward.modeling.layout import LayoutChoice, only_padded, prove_layout
from hf_reward.modeling.loading import embedding_rows, load_reward_model
from hf_reward.modeling.score_head import (
    bind_reward_forward,
    completion_rewards,
    keep_head_in_float32,
    last_token_positions,
    reads_last_token,
)
from hf_reward.modeling.shared_prompt import use_attention
from hf_reward.modeling.tokenizer import load_tokenizer


logger = logging.getLogger(__name__)

Conversation = list[dict[str, Any]]

# From this many inputs on they are scored without padding, and what they start with in common is computed once.
_MANY, _TOKENS_AT_ONCE = 16, 16384


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
        self._layout: LayoutChoice | None = None
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
        self, inputs: Sequence[Conversation] | Sequence[str] | Conversation | str, batch_size: int | None = None
    ) -> list[float]:
        """
        Reward of each conversation (a list of messages) or text.

        Many inputs are scored without padding, and completions of one prompt compute it once, if the model was seen to
        give the same rewards then.

        Args:
            inputs: Conversations or texts, or one of them alone.
            batch_size (`int`, *optional*): Sequences of one padded forward pass. Not given: as many as make up 16,384
                tokens without padding, or 8 padded ones. The rewards do not depend on it beyond rounding.

        Returns:
            `list[float]`: One reward each, in the order of the inputs.

        Raises:
            `DataError`: An input is empty, or neither a conversation nor a text.
        """
        rows = [self.encode(item, number) for number, item in enumerate(_as_list(inputs))]
        rewards: dict[int, float] = {}
        if batch_size is None and len(rows) >= _MANY and self._can_pack(rows):
            batches, score = _of_many_tokens(rows), self._score_packed
        else:
            size = batch_size or 8
            longest_first = sorted(range(len(rows)), key=lambda index: -len(rows[index]))
            batches = [longest_first[start : start + size] for start in range(0, len(rows), size)]
            score = self.score_ids
        for batch in tqdm(batches, desc="Scoring", unit="batch", disable=len(batches) < 10):
            rewards |= zip(batch, score([rows[index] for index in batch]).tolist(), strict=True)
        return [rewards[index] for index in range(len(rows))]

    def _can_pack(self, rows: list[list[int]]) -> bool:
        """Whether rewards of rows without padding were seen to be right, on the longest and the most alike ones."""
        if self._own_forward or only_padded(self.model) is not None:
            return False
        if self._layout is None:
            ordered = sorted(rows)
            alike = max(itertools.pairwise(ordered), key=shared_prompt_length)
            groups = [sorted(rows, key=len)[-2:], list(alike)]
            collator = PreferenceCollator(self.tokenizer.pad_token_id or 0)
            weights = next(self.model.parameters()).dtype
            half = weights if weights in (torch.bfloat16, torch.float16) else None
            self._layout = prove_layout(
                self.model,
                LayoutChoice("shared_prompt", "for many inputs"),
                [{"completion_input_ids": group} for group in groups],
                collator,
                half,
            )
            if self._layout.layout != "padded":
                use_attention(classifier_of(self.model))
        return self._layout.layout != "padded"

    @torch.no_grad()
    def _score_packed(self, rows: list[list[int]]) -> Tensor:
        """Rewards of rows in lexicographic order; neighbours that start alike are a group."""
        groups: list[list[list[int]]] = []
        for row in rows:
            # Half of a row is as much as sharing must save to be worth a call of its own.
            if groups and 2 * shared_prompt_length([groups[-1][0], row]) > len(row):
                groups[-1].append(row)
            else:
                groups.append([row])
        layout = "packed" if self._layout is None else self._layout.layout
        batch = lay_out(groups, layout, self.tokenizer.pad_token_id or 0, 1)
        device = next(self.model.parameters()).device
        batch = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
        return completion_rewards(self.model, batch).float()

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


def _of_many_tokens(rows: list[list[int]]) -> list[list[int]]:
    """Numbers of the rows in lexicographic order, so that those with one prompt stand together, in batches."""
    batches: list[list[int]] = [[]]
    tokens = 0
    for index in sorted(range(len(rows)), key=rows.__getitem__):
        if batches[-1] and tokens + len(rows[index]) > _TOKENS_AT_ONCE:
            batches.append([])
            tokens = 0
        batches[-1].append(index)
        tokens += len(rows[index])
    return batches


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
