"""Rows to token ids: rendered by the chat template or as plain text, with BOS and EOS exactly once."""

import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from hf_reward.data.formats import PreferenceRow
from hf_reward.errors import ConfigurationError, DataError


_TEMPLATE_ERRORS = (TemplateError, TypeError, KeyError, ValueError, AttributeError)


@dataclass(frozen=True)
class EncodedRow:
    """
    Token ids of one row.

    Attributes:
        prompt (`list[int]`): The prompt rendered alone, with the generation prompt; empty where there is none.
        sides (`list[list[int]]`): Prompt and completion together, for every completion.
        notes (`tuple[str, ...]`): What is worth counting about the row.
    """

    prompt: list[int]
    sides: list[list[int]]
    notes: tuple[str, ...] = ()


class RowEncoder:
    """
    Turns rows into token ids, a batch at a time; the ids are those of `tokenizer.apply_chat_template`.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): A tokenizer that went through `prepare_tokenizer`.
        name (`str`): Name of the source, for messages.
        escape_special_tokens (`bool`): Encode special tokens that stand in the content as ordinary text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, name: str, escape_special_tokens: bool = False) -> None:
        self.tokenizer = tokenizer
        self.name = name
        self.escape = escape_special_tokens

    def __call__(self, rows: Sequence[PreferenceRow], places: Sequence[str]) -> list[EncodedRow | DataError]:
        """Encode rows; a row that the chat template cannot render gives the error instead."""
        literal = self._with_special_tokens(rows)
        encoded: dict[int, EncodedRow | DataError] = {}
        for chat in (True, False):
            numbers = [number for number, row in enumerate(rows) if isinstance(row.completions[0], list) == chat]
            if numbers:
                encode = self._encode_chats if chat else self._encode_texts
                results = encode(
                    [rows[number] for number in numbers],
                    [places[number] for number in numbers],
                    [number in literal for number in numbers],
                )
                encoded |= zip(numbers, results, strict=True)
        return [encoded[number] for number in range(len(rows))]

    def _encode_chats(
        self, rows: list[PreferenceRow], places: list[str], literal: list[bool]
    ) -> list[EncodedRow | DataError]:
        if self.tokenizer.chat_template is None:
            raise ConfigurationError(
                f"{self.name} holds chat messages, but the tokenizer has no chat template. Give one by "
                "`chat_template_path`: a Jinja file, another tokenizer, or one of the names shipped (plain, chatml, "
                "tulu)."
            )
        rendered = self._render_together(rows) or [
            self._render(row, place) for row, place in zip(rows, places, strict=True)
        ]
        ids = iter(self._ids([text for texts in rendered if isinstance(texts, list) for text in texts], plain=False))
        results: list[EncodedRow | DataError] = []
        for row, texts, place, escaped in zip(rows, rendered, places, literal, strict=True):
            if isinstance(texts, DataError):
                results.append(texts)
                continue
            prompt, *sides = [next(ids) for _ in texts]
            notes = (*(["special_tokens_in_content"] * escaped), *(["template_differs"] * _differs(*texts)))
            if escaped and self.escape:
                prompt, *sides = self._sanitized(row, place)
            results.append(EncodedRow(prompt, sides, notes))
        return results

    def _render_together(self, rows: list[PreferenceRow]) -> list[list[str] | DataError] | None:
        """All conversations in two calls; `None` where rows have arguments of their own, or one cannot be rendered."""
        if any(row.tools or row.chat_template_kwargs for row in rows):
            return None
        with_prompt = [row for row in rows if row.prompt]
        conversations = [[*(row.prompt or []), *side] for row in rows for side in row.completions]
        try:
            prompts = iter(self._apply([list(row.prompt or []) for row in with_prompt], add_generation_prompt=True))
            sides = iter(self._apply(conversations))
        except _TEMPLATE_ERRORS:
            return None
        return [[next(prompts) if row.prompt else "", *(next(sides) for _ in row.completions)] for row in rows]

    def _render(self, row: PreferenceRow, place: str) -> list[str] | DataError:
        options: dict[str, Any] = {"tools": row.tools, **row.chat_template_kwargs}
        prompt: list[Any] = list(row.prompt or [])
        try:
            first = self._apply([prompt], add_generation_prompt=True, **options) if prompt else [""]
            return first + self._apply([prompt + list(side) for side in row.completions], **options)
        except _TEMPLATE_ERRORS as error:
            return _cannot_render(place, error)

    def _apply(self, conversations: list[list[Any]], **options: Any) -> list[str]:
        if not conversations:
            return []
        return list(self.tokenizer.apply_chat_template(conversations, tokenize=False, **options))

    def _sanitized(self, row: PreferenceRow, place: str) -> list[list[int]]:
        """Prompt and sides with special tokens of the content as ordinary text, which transformers knows how to do."""
        if "sanitize_control_tokens" not in inspect.signature(self.tokenizer.apply_chat_template).parameters:
            raise ConfigurationError(
                "`escape_special_tokens` needs a newer transformers, whose `apply_chat_template` has "
                "`sanitize_control_tokens`. Upgrade it, or leave the setting out."
            )
        options: dict[str, Any] = {
            "tools": row.tools,
            **row.chat_template_kwargs,
            "return_dict": False,
            "sanitize_control_tokens": True,
        }
        prompt: list[Any] = list(row.prompt or [])
        conversations = [prompt + list(side) for side in row.completions]
        try:
            first = self.tokenizer.apply_chat_template(prompt, add_generation_prompt=True, **options) if prompt else []
            sides = [self.tokenizer.apply_chat_template(messages, **options) for messages in conversations]
        except _TEMPLATE_ERRORS as error:
            raise _cannot_render(place, error) from error
        return [list(first), *(list(side) for side in sides)]

    def _encode_texts(
        self, rows: list[PreferenceRow], places: list[str], literal: list[bool]
    ) -> list[EncodedRow | DataError]:
        texts = [[str(row.prompt or ""), *(f"{row.prompt or ''}{side}" for side in row.completions)] for row in rows]
        ids = iter(self._ids([text for row in texts for text in row], plain=True))
        results: list[EncodedRow | DataError] = []
        for row, found in zip(texts, literal, strict=True):
            prompt, *sides = [next(ids) for _ in row]
            twice = any(starts_twice(side, self.tokenizer) for side in sides)
            notes = (*(["special_tokens_in_content"] * found), *(["bos_deduplicated"] * twice))
            prompt = close_text(prompt, self.tokenizer, is_prompt=True) if row[0] else []
            results.append(EncodedRow(prompt, [close_text(side, self.tokenizer) for side in sides], notes))
        return results

    def _ids(self, texts: list[str], plain: bool) -> list[list[int]]:
        if not texts:
            return []
        split = bool(self.tokenizer.split_special_tokens) or (plain and self.escape)
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            encoded = self.tokenizer(texts, add_special_tokens=plain, split_special_tokens=split, verbose=False)
            return list(encoded["input_ids"])
        # What the tokenizer's own call does, without the offsets and masks, which take a quarter of its time.
        backend.no_truncation()
        backend.no_padding()
        before, backend.encode_special_tokens = backend.encode_special_tokens, split
        try:
            return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=plain)]
        finally:
            backend.encode_special_tokens = before

    @cached_property
    def _special_tokens(self) -> re.Pattern[str] | None:
        special = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        longest_first = sorted({token for token in special if token}, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def _with_special_tokens(self, rows: Sequence[PreferenceRow]) -> set[int]:
        """Numbers of the rows whose content holds a special token as text."""
        pattern = self._special_tokens
        # One search over all texts: in nearly every batch there is nothing to find.
        if pattern is None or not pattern.search("\0".join(text for row in rows for text in contents(row))):
            return set()
        return {number for number, row in enumerate(rows) if any(pattern.search(text) for text in contents(row))}


def contents(row: PreferenceRow) -> Iterator[str]:
    """The texts that a user wrote: prompt and completions, without what a chat template puts around them."""
    for part in (row.prompt or [], *row.completions):
        if isinstance(part, str):
            yield part
            continue
        for message in part:
            content = message.get("content")
            if isinstance(content, str):
                yield content
            elif content:
                yield from (str(piece.get("text", "")) for piece in content)


def _differs(prompt: str, *sides: str) -> bool:
    """Whether the template renders the prompt differently on the sides: they agree with it to different lengths."""
    if all(side.startswith(prompt) for side in sides):
        return False
    agreed = set()
    for side in sides:
        pairs = zip(prompt, side, strict=False)
        agreed.add(next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(prompt), len(side))))
    return len(agreed) > 1


def close_text(ids: list[int], tokenizer: PreTrainedTokenizerBase, is_prompt: bool = False) -> list[int]:
    """
    Ids of plain text with BOS once at the start and, unless it is a prompt, EOS once at the end.

    The tokenizer's own special tokens stand already; a text that itself begins with BOS would have it twice. A
    tokenizer that closes its sequences with a token of its own (`[SEP]`) is left to do so.
    """
    if starts_twice(ids, tokenizer):
        ids = ids[1:]
    closing = {tokenizer.eos_token_id, tokenizer.sep_token_id} - {None}
    if is_prompt:
        return ids[:-1] if len(ids) > 1 and ids[-1] in closing else ids
    if len(ids) > 1 and ids[-1] == ids[-2] and ids[-1] in closing:
        ids = ids[:-1]
    if tokenizer.eos_token_id is None or (ids and ids[-1] in closing):
        return ids
    return [*ids, tokenizer.eos_token_id]


def starts_twice(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether ids begin with BOS twice: once from the tokenizer, once from the text."""
    return len(ids) > 1 and ids[0] == ids[1] == tokenizer.bos_token_id


def _cannot_render(place: str, error: Exception) -> DataError:
    return DataError(
        f"{place}: the chat template cannot render this conversation ({type(error).__name__}: {error}). "
        "Correct the row, or give another template by `chat_template_path`."
    )
