"""The length policy: which pairs are too long, and how a prompt is shortened without touching a completion."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from hf_reward.errors import ConfigurationError


Overlong = Literal["drop", "truncate_prompt"]


@dataclass(frozen=True)
class LengthLimits:
    """
    Longest sequences that are kept, in tokens, both inclusive; `None` is no limit.

    Attributes:
        max_length (`int`, *optional*): Prompt and completion together, for every completion.
        max_prompt_length (`int`, *optional*): The prompt alone.
        overlong (`str`, *optional*, defaults to `"drop"`):
            What happens to a longer row: `"drop"`, or `"truncate_prompt"`, which shortens the prompt from its start
            and keeps the completions whole; a row that cannot fit is dropped.
    """

    max_length: int | None = None
    max_prompt_length: int | None = None
    overlong: Overlong = "drop"

    def __post_init__(self) -> None:
        if self.overlong not in get_args(Overlong):
            choices = ", ".join(get_args(Overlong))
            raise ConfigurationError(f"`overlong`: found {self.overlong!r}; expected one of {choices}")

    def reason(self, prompt_length: int, sides: list[list[int]]) -> str:
        """
        Why a row is too long, or an empty text.

        Examples:

        >>> LengthLimits(max_length=3).reason(1, [[5, 6, 7], [5, 8]])
        ''
        >>> LengthLimits(max_length=2).reason(1, [[5, 6, 7], [5, 8]])
        'too_long'
        """
        if self.max_prompt_length is not None and prompt_length > self.max_prompt_length:
            return "prompt_too_long"
        if self.max_length is not None and max(map(len, sides)) > self.max_length:
            return "too_long"
        return ""

    def shorten(self, prompt_length: int, sides: list[list[int]], head: int) -> tuple[int, list[list[int]]] | None:
        """
        Cut tokens from the start of the prompt, behind `head` tokens (BOS) that stay, as few as make the row fit.

        Returns:
            The new prompt length and sides, or `None` if not even one token of the prompt could stay.

        Examples:

        >>> LengthLimits(max_length=4).shorten(3, [[1, 5, 6, 7, 2], [1, 5, 6, 8, 2]], head=1)
        (2, [[1, 6, 7, 2], [1, 6, 8, 2]])
        """
        over = max(map(len, sides)) - self.max_length if self.max_length is not None else 0
        over_prompt = prompt_length - self.max_prompt_length if self.max_prompt_length is not None else 0
        cut = max(over, over_prompt, 0)
        if prompt_length - head - cut < 1:
            return None
        return prompt_length - cut, [side[:head] + side[head + cut :] for side in sides]


def shorter_prompts(prompt: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """
    The prompts that are left when the oldest turns go: system messages at the start stay, and a user's turn follows.

    Examples:

    >>> turns = [{"role": role} for role in ("system", "user", "assistant", "user")]
    >>> [[message["role"] for message in prompt] for prompt in shorter_prompts(turns)]
    [['system', 'user']]
    """
    head = next((i for i, m in enumerate(prompt) if m["role"] not in ("system", "developer")), len(prompt))
    for start in range(head + 1, len(prompt)):
        if prompt[start]["role"] == "user":
            yield prompt[:head] + prompt[start:]
