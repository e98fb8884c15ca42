"""From a preference row to token ids: chat template or plain text, one closing token, the length policy, the drops."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha1
from typing import Any, TypeVar

from datasets import Dataset, Features, IterableDataset, Sequence, Value
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from hf_reward.data.formats import (
    PreferenceRow,
    TokenRow,
    check_columns,
    has_token_ids,
    parse_row,
    parse_token_row,
    prompt_key,
)
from hf_reward.errors import ConfigurationError, DataError


D = TypeVar("D", Dataset, IterableDataset)

PREPARED_COLUMNS = ("chosen_input_ids", "rejected_input_ids", "prompt_length", "length", "prompt_key")


@dataclass(frozen=True)
class LengthLimits:
    """
    Longest sequences that are kept, in tokens, both inclusive; `None` is no limit. Longer pairs are dropped whole.

    Attributes:
        max_length (`int`, *optional*): Prompt and completion together, for either side.
        max_prompt_length (`int`, *optional*): The prompt alone.
    """

    max_length: int | None = None
    max_prompt_length: int | None = None


def is_prepared(columns: list[str] | None) -> bool:
    """Whether a dataset with these columns went through `tokenize_dataset` already."""
    return columns is not None and set(PREPARED_COLUMNS) <= set(columns)


def tokenize_dataset(
    dataset: D,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    limits: LengthLimits,
    num_proc: int | None = None,
) -> D:
    """
    Tokenise every row of a preference dataset; rows that cannot be used keep their place and say why.

    Args:
        dataset (`Dataset` or `IterableDataset`):
            Raw rows in one of the formats of `hf_reward.data.formats`, or pretokenised ones.
        tokenizer (`PreTrainedTokenizerBase`):
            A tokenizer that went through `prepare_tokenizer`.
        name (`str`):
            Name of the source, for messages.
        limits (`LengthLimits`):
            The length policy.
        num_proc (`int`, *optional*):
            Worker processes.

    Returns:
        The dataset with the columns `chosen_input_ids`, `rejected_input_ids`, `prompt_length` (tokens),
        `length` (tokens of the longer side), `prompt_key` (equal for equal prompts), `drop_reason` (empty for rows to
        keep), and `margin` and `weight` where the source has them.

    Raises:
        `DataError`: A row is not a preference pair; the message names the source and the row.
    """
    columns = list(dataset.column_names or next(iter(dataset)))
    check_columns(columns, name)
    extra = [column for column in ("margin", "weight") if column in columns]
    tokenize = RowTokenizer(tokenizer, name, limits, tuple(extra))
    if isinstance(dataset, Dataset):
        return dataset.map(
            tokenize,
            batched=True,
            with_indices=True,
            remove_columns=columns,
            features=_features(extra),
            num_proc=num_proc if num_proc and num_proc > 1 else None,
            # The library's own cache does not see what a tokenizer holds; nothing stale may come out of it.
            load_from_cache_file=False,
            desc=f"Tokenizing {name}",
        )
    return dataset.map(tokenize, batched=True, with_indices=True, remove_columns=columns, features=_features(extra))


def keep_usable(dataset: IterableDataset) -> IterableDataset:
    """Leave out the rows of a tokenised stream that have a drop reason."""
    return dataset.filter(lambda reason: reason == "", input_columns="drop_reason").remove_columns("drop_reason")


@dataclass(frozen=True)
class RowTokenizer:
    """Tokenises batches of rows; what `datasets.map` calls (and pickles, when several processes work)."""

    tokenizer: PreTrainedTokenizerBase
    name: str
    limits: LengthLimits
    extra: tuple[str, ...] = ()

    def __call__(self, batch: Mapping[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        numbers = batch.get("source_row") or [index + 1 for index in indices]
        places = [f"{self.name}, row {number}" for number in numbers]
        rows = [{column: values[i] for column, values in batch.items()} for i in range(len(indices))]
        if has_token_ids(list(batch)) is not None:
            parsed: list[TokenRow] | list[PreferenceRow] = [parse_token_row(row, at) for row, at in zip(rows, places)]
            pairs = [_pair_of_ids(row) for row in parsed]
        else:
            parsed = [parse_row(row, place) for row, place in zip(rows, places)]
            pairs = self._encode(parsed, places)
        for pair, row in zip(pairs, parsed, strict=True):
            pair |= {column: getattr(row, column) for column in self.extra}
            pair["drop_reason"] = pair.get("drop_reason") or self._drop_reason(pair)
            pair["length"] = max(len(pair["chosen_input_ids"]), len(pair["rejected_input_ids"]))
        return {column: [pair[column] for pair in pairs] for column in _features(self.extra)}

    def _encode(self, rows: list[PreferenceRow], places: list[str]) -> list[dict[str, Any]]:
        texts = [text for row, place in zip(rows, places, strict=True) for text in self._texts(row, place)]
        ids = iter(self._ids(texts))
        pairs = []
        for row in rows:
            prompt, chosen, rejected = next(ids), next(ids), next(ids)
            shared = _common_prefix(chosen, rejected)
            # The prompt ends where its own rendering ends, as far as both sides agree with it, token by token.
            length = shared if row.prompt is None else min(shared, _common_prefix(prompt, chosen))
            key = prompt_key(row)
            pairs.append(
                {
                    "chosen_input_ids": chosen,
                    "rejected_input_ids": rejected,
                    "prompt_length": length,
                    "prompt_key": _hash(repr(chosen[:shared]) if key is None else key),
                    "drop_reason": _empty_or_identical(row),
                }
            )
        return pairs

    def _texts(self, row: PreferenceRow, place: str) -> list[tuple[str, bool]]:
        """Prompt, chosen and rejected as text, each with whether the tokenizer adds its special tokens."""
        if isinstance(row.completions[0], str):
            prompt = row.prompt or ""
            return [(prompt, True), *((f"{prompt}{completion}", True) for completion in row.completions)]
        if self.tokenizer.chat_template is None:
            raise ConfigurationError(
                f"{self.name} holds chat messages, but the tokenizer has no chat template. Give one by "
                "`chat_template_path`: a Jinja file, another tokenizer, or one of the names shipped (plain, chatml, tulu)."
            )
        options: dict[str, Any] = {"tools": row.tools, **row.chat_template_kwargs, "tokenize": False}
        prompt_messages: list[Any] = list(row.prompt or [])
        try:
            prompt = (
                str(self.tokenizer.apply_chat_template(prompt_messages, add_generation_prompt=True, **options))
                if prompt_messages
                else ""
            )
            sides = [
                str(self.tokenizer.apply_chat_template(prompt_messages + list(side), **options))
                for side in row.completions
            ]
        except (TemplateError, TypeError, KeyError) as error:
            raise DataError(
                f"{place}: the chat template cannot render this conversation ({type(error).__name__}: {error}). "
                "Correct the row, or give another template by `chat_template_path`."
            ) from error
        return [(text, False) for text in (prompt, *sides)]

    def _ids(self, texts: list[tuple[str, bool]]) -> list[list[int]]:
        """Token ids of texts; plain text gets BOS and EOS exactly once, rendered chats are taken as they are."""
        ids: list[list[int]] = [[] for _ in texts]
        for plain in {plain for _, plain in texts}:
            numbers = [number for number, (_, is_plain) in enumerate(texts) if is_plain == plain]
            encoded = self.tokenizer([texts[number][0] for number in numbers], add_special_tokens=plain, verbose=False)["input_ids"]
            for number, row in zip(numbers, encoded, strict=True):
                # Every third text is a prompt, which is not closed.
                ids[number] = close_text(row, self.tokenizer, is_prompt=number % 3 == 0) if plain else row
        return ids

    def _drop_reason(self, pair: Mapping[str, Any]) -> str:
        chosen, rejected, prompt = pair["chosen_input_ids"], pair["rejected_input_ids"], pair["prompt_length"]
        if chosen == rejected:
            return "identical"
        if self.tokenizer.pad_token_id in chosen[prompt:] + rejected[prompt:]:
            return "pad_token_in_completion"
        if self.limits.max_prompt_length is not None and prompt > self.limits.max_prompt_length:
            return "prompt_too_long"
        if self.limits.max_length is not None and max(len(chosen), len(rejected)) > self.limits.max_length:
            return "too_long"
        return ""


def close_text(ids: list[int], tokenizer: PreTrainedTokenizerBase, is_prompt: bool = False) -> list[int]:
    """
    Ids of plain text with BOS once at the start and, unless it is a prompt, EOS once at the end.

    The tokenizer's own special tokens stand already; a text that itself begins with BOS would have it twice. A
    tokenizer that closes its sequences with a token of its own (`[SEP]`) is left to do so.
    """
    if len(ids) > 1 and ids[0] == ids[1] == tokenizer.bos_token_id:
        ids = ids[1:]
    closing = {tokenizer.eos_token_id, tokenizer.sep_token_id} - {None}
    if is_prompt:
        return ids[:-1] if len(ids) > 1 and ids[-1] in closing else ids
    if len(ids) > 1 and ids[-1] == ids[-2] and ids[-1] in closing:
        ids = ids[:-1]
    if tokenizer.eos_token_id is None or (ids and ids[-1] in closing):
        return ids
    return [*ids, tokenizer.eos_token_id]


def _pair_of_ids(row: TokenRow) -> dict[str, Any]:
    shared = _common_prefix(row.chosen_input_ids, row.rejected_input_ids)
    return {
        "chosen_input_ids": row.chosen_input_ids,
        "rejected_input_ids": row.rejected_input_ids,
        "prompt_length": shared,
        "prompt_key": _hash(repr(row.chosen_input_ids[:shared])),
    }


def _empty_or_identical(row: PreferenceRow) -> str:
    chosen, rejected = row.completions
    if any(_is_empty(side) for side in (chosen, rejected)):
        return "empty"
    return "identical" if chosen == rejected else ""


def _is_empty(completion: list[dict[str, Any]] | str) -> bool:
    if isinstance(completion, str):
        return not completion.strip()
    last = completion[-1]
    content = last.get("content")
    return not last.get("tool_calls") and (not content or (isinstance(content, str) and not content.strip()))


def _common_prefix(first: list[int], second: list[int]) -> int:
    for index, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return index
    return min(len(first), len(second))


def _hash(text: str) -> int:
    return int.from_bytes(sha1(text.encode("utf-8", "surrogatepass"), usedforsecurity=False).digest()[:8], signed=True)


def _features(extra: list[str] | tuple[str, ...]) -> Features:
    return Features(
        {
            "chosen_input_ids": Sequence(Value("int32")),
            "rejected_input_ids": Sequence(Value("int32")),
            "prompt_length": Value("int32"),
            "length": Value("int32"),
            "prompt_key": Value("int64"),
            "drop_reason": Value("string"),
            **{column: Value("float32") for column in extra},
        }
    )
