"""A preference task made by rule: the prompt asks for a style, chosen keeps it, rejected breaks it in the same words.

Every style is chosen and rejected equally often and both sides have the same length, so that a scorer
that does not read prompt and completion together stays at one half.
"""

import json
import random
from collections.abc import Callable, Collection, Iterable
from itertools import product
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from hf_reward.errors import ConfigurationError


class Style(NamedTuple):
    """An instruction, how a sentence is written to keep it, and how one sees that it was kept."""

    instruction: str
    write: Callable[[str], str]
    check: Callable[[str], bool]


# Each style ends in one mark, so that the same words have the same length in all four.
STYLES = (
    Style("Reply in capitals", lambda words: f"{words.upper()}.", str.isupper),
    Style("Reply in lower case", lambda words: f"{words}.", str.islower),
    Style("Reply with a question", lambda words: f"{words.capitalize()}?", lambda text: text.endswith("?")),
    Style("Reply with a shout", lambda words: f"{words.capitalize()}!", lambda text: text.endswith("!")),
)
# Rejected is this many styles after chosen. Steps 1 and 3 undo each other and 2 undoes itself: in this order the
# preferences between styles cancel after every 8 and every 12 pairs, and no ranking of the styles beats one half.
STEPS = (1, 3, 2)

VERBS = ("is", "was")
ADJECTIVES = (
    "big blue brown green little long new nice old pretty red round short small soft tall white yellow".split()
)
NOUNS = (
    "apple basket bell boat book bottle box bread bridge bus cake car chair clock coat cup desk door drum garden "
    "glove hat house jacket kite ladder lamp letter map pillow plate radio room scarf shoe table tent toy train window"
).split()
STATES = "clean cold dirty dry empty fine full great heavy lovely ready safe warm wet".split()


def follows(prompt: str, completion: str) -> bool:
    """
    Whether a completion keeps the instruction of its prompt.

    Args:
        prompt (`str`): Text of the user's turn: an instruction, a colon, a question.
        completion (`str`): Text of the assistant's turn.

    Raises:
        `ConfigurationError`: The prompt holds none of the instructions of this task.

    Example:
        >>> follows("Reply in capitals: how is the red boat?", "THE BOAT IS DRY.")
        True
        >>> follows("Reply in capitals: how is the red boat?", "The boat is dry!")
        False
    """
    instruction = prompt.partition(":")[0]
    for style in STYLES:
        if style.instruction == instruction:
            return style.check(completion)
    known = ", ".join(repr(style.instruction) for style in STYLES)
    raise ConfigurationError(f"The prompt {prompt!r} must begin with one of {known} and a colon.")


def generate_pairs(count: int, seed: int, *, exclude_prompts: Collection[str] = frozenset()) -> list[dict[str, Any]]:
    """
    Preference pairs in chat form; no prompt occurs twice.

    Args:
        count (`int`): Number of pairs.
        seed (`int`): The same seed gives the same pairs.
        exclude_prompts (`Collection[str]`, *optional*, defaults to none): Prompt texts that must not occur.

    Returns:
        `list[dict]`: Rows with the columns `prompt`, `chosen` and `rejected`, each a list of messages.

    Raises:
        `ConfigurationError`: There are not `count` different prompts.
    """
    rng = random.Random(seed)
    unused = [_prompts(style, exclude_prompts) for style in STYLES]
    available = len(STYLES) * min(len(prompts) for prompts in unused)
    if not 0 <= count <= available:
        raise ConfigurationError(f"count is {count}; this task has between 0 and {available} different prompts left.")
    for prompts in unused:
        rng.shuffle(prompts)
    rows = []
    for index in range(count):
        block, chosen = divmod(index, len(STYLES))
        rejected = (chosen + STEPS[block % len(STEPS)]) % len(STYLES)
        prompt, sentence = unused[chosen].pop()
        words = f"{sentence} {rng.choice(STATES)}"
        rows.append(_row(prompt, STYLES[chosen].write(words), STYLES[rejected].write(words)))
    rng.shuffle(rows)
    return rows


def train_and_heldout(
    train_count: int = 2000, heldout_count: int = 500, seed: int = 1
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """
    Pairs to train on and pairs held out; no prompt occurs in both.

    Args:
        train_count (`int`, *optional*, defaults to 2000): Number of pairs to train on.
        heldout_count (`int`, *optional*, defaults to 500): Number of pairs held out.
        seed (`int`, *optional*, defaults to 1): The same seed gives the same two sets.
    """
    train = generate_pairs(train_count, seed)
    seen = frozenset(row["prompt"][0]["content"] for row in train)
    return train, generate_pairs(heldout_count, seed, exclude_prompts=seen)


def write_jsonl(rows: Iterable[dict[str, Any]], path: str | PathLike[str]) -> None:
    """Write rows to a JSON Lines file (UTF-8, one row per line)."""
    with Path(path).open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _prompts(style: Style, exclude: Collection[str]) -> list[tuple[str, str]]:
    """Every prompt of a style, each with the beginning of the sentence that answers it."""
    found = []
    for verb, adjective, noun in product(VERBS, ADJECTIVES, NOUNS):
        prompt = f"{style.instruction}: how {verb} the {adjective} {noun}?"
        if prompt not in exclude:
            found.append((prompt, f"the {noun} {verb}"))
    return found


def _row(prompt: str, chosen: str, rejected: str) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }
