"""A row as prompt and completions: where the prompt ends among the ids, whose prompts are equal, what is empty."""

from hashlib import sha1
from typing import Any

from hf_reward.data.encoding import EncodedRow
from hf_reward.data.formats import PreferenceRow, TokenRow, prompt_key


# Two texts that begin with as few tokens as this in common need not answer the same prompt.
SHORTEST_GUESSED_PROMPT = 8


def find_prompt_end(entry: PreferenceRow | TokenRow, ids: EncodedRow, notes: list[str]) -> int:
    """Where the prompt ends: with its own rendering, as far as all sides agree with it, token by token."""
    if isinstance(entry, TokenRow) or entry.prompt is None:
        length = shared_prefix(ids.sides)
    else:
        length = min(common_prefix(ids.prompt, side) for side in ids.sides)
        if length < len(ids.prompt) and "template_differs" not in notes:
            notes.append("prompt_not_prefix")
    # Every completion keeps a token, at which its reward is read.
    return max(0, min(length, min(map(len, ids.sides)) - 1))


def common_prefix(first: list[int], second: list[int]) -> int:
    """
    Number of tokens that two sequences have in common at their start.

    Examples:

    >>> common_prefix([5, 6, 7], [5, 6, 8, 9])
    2
    """
    end, step = min(len(first), len(second)), 64
    start = 0
    # Slices compare much faster than single tokens.
    while start < end and first[start : start + step] == second[start : start + step]:
        start += step
    while start < end and first[start] == second[start]:
        start += 1
    return min(start, end)


def shared_prefix(sides: list[list[int]]) -> int:
    """Number of tokens that all sides have in common at their start."""
    return min(common_prefix(sides[0], side) for side in sides[1:])


def key_of_prompt(entry: object, sides: list[list[int]], set_key: int) -> int:
    """Equal for equal prompts; a row without one that could be told is known by its completions."""
    key = prompt_key(entry) if isinstance(entry, PreferenceRow) else None
    if key is not None:
        digest = sha1(key.encode("utf-8", "surrogatepass"), usedforsecurity=False).digest()
        return int.from_bytes(digest[:8], signed=True)
    shared = shared_prefix(sides)
    return hash(tuple(sides[0][:shared])) if shared >= SHORTEST_GUESSED_PROMPT else set_key


def two_are_equal(sides: list[list[int]]) -> bool:
    """Whether two completions of a row have the same token ids."""
    return sides[0] == sides[1] if len(sides) == 2 else len(set(map(tuple, sides))) < len(sides)


def is_empty(completion: list[dict[str, Any]] | str) -> bool:
    """Whether a completion says nothing: no text but whitespace, and no tool call."""
    if isinstance(completion, str):
        return not completion.strip()
    last = completion[-1]
    content = last.get("content")
    return not last.get("tool_calls") and (not content or (isinstance(content, str) and not content.strip()))
