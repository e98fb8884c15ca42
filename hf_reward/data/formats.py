"""The plain row format: which columns a preference row may have, and one row checked and brought to one shape.

Every message of an error names the place, the column path, what was found, what was expected and what to do.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hf_reward.data.checks import (
    finite,
    listed,
    number,
    shown,
    template_kwargs,
    token_ids,
    tool_schemas,
    wrong,
    yes_or_no,
)
from hf_reward.data.messages import Message, check_same_form, side, split_messages
from hf_reward.errors import DataError


TOKEN_ID_COLUMNS = (
    ("chosen_input_ids", "rejected_input_ids"),
    ("chosen_ids", "rejected_ids"),
    ("completion_input_ids",),
)


@dataclass(frozen=True)
class PreferenceRow:
    """One preference pair, or one larger ranked group, in the one shape that the rest of the package reads.

    Attributes:
        prompt (`list[dict]` or `str`, *optional*):
            What all completions have in common: messages, or text. `None` only for plain text without a `prompt`
            column. An empty list stands for conversations that differ from their first message on.
        completions (`list[list[dict]]` or `list[str]`):
            The completions without the prompt, best first; two of them are chosen and rejected.
        tools (`list[dict]`, *optional*):
            Tool schemas for the chat template.
        chat_template_kwargs (`dict`):
            Further arguments of this row for the chat template.
        margin (`float`, *optional*):
            The reward difference that is required of this pair.
        weight (`float`, *optional*):
            The weight of this pair in the loss, not negative.
        scores (`list[float]`, *optional*):
            What the completions were given, in their order.
        chosen_probability (`float`, *optional*):
            How probable it is that chosen is the better one, from 0 to 1; pairs only.
        tie (`bool`, *optional*, defaults to `False`):
            Whether the two were judged equal; pairs only.
        left_out (`int`, *optional*, defaults to 0):
            How many completions of a group were left out, because their scores say too little.
    """

    prompt: list[Message] | str | None
    completions: list[list[Message]] | list[str]
    tools: list[dict[str, Any]] | None
    chat_template_kwargs: dict[str, Any]
    margin: float | None
    weight: float | None
    scores: list[float] | None = None
    chosen_probability: float | None = None
    tie: bool = False
    left_out: int = 0


@dataclass(frozen=True)
class TokenRow:
    """One preference pair or group that is already tokenised: the ids of each side, prompt included, best first."""

    completions: list[list[int]]
    margin: float | None
    weight: float | None
    scores: list[float] | None = None
    chosen_probability: float | None = None
    tie: bool = False
    left_out: int = 0

    @property
    def chosen_input_ids(self) -> list[int]:
        """Ids of the best side."""
        return self.completions[0]

    @property
    def rejected_input_ids(self) -> list[int]:
        """Ids of the last side."""
        return self.completions[-1]


def has_token_ids(columns: Iterable[str]) -> tuple[str, ...] | None:
    """Names the token id columns of a pretokenised dataset, or returns `None`.

    Example:

    ```python
    >>> has_token_ids(["chosen_ids", "rejected_ids", "margin"])
    ('chosen_ids', 'rejected_ids')
    >>> has_token_ids(["chosen", "rejected"]) is None
    True

    ```
    """
    found = set(columns)
    return next((names for names in TOKEN_ID_COLUMNS if found.issuperset(names)), None)


def check_columns(columns: Iterable[str], place: str) -> None:
    """Checks, before any row is read, that the columns can make a preference pair.

    Raises:
        `DataError`: if neither `chosen` and `rejected`, nor `completions`, nor token id columns are there.
    """
    found = list(columns)
    if has_token_ids(found) is None and "completions" not in found and not {"chosen", "rejected"}.issubset(found):
        raise _missing_columns(found, place)


def parse_row(row: Mapping[str, Any], place: str) -> PreferenceRow:
    """Checks one raw row and brings it to one shape.

    The two spellings of a pair, with an explicit `prompt` and with whole conversations in `chosen` and `rejected`,
    give the same result, and so does the pair as `completions`. Keys whose value is `None` are left out of messages,
    tools and template arguments: Arrow fills them in where other rows have them.

    Args:
        row (`Mapping[str, Any]`):
            The columns of one row: `chosen` and `rejected`, or `completions` (best first), and if wanted `prompt`,
            `tools`, `chat_template_kwargs`, `margin`, `weight`, `scores`, `chosen_probability` and `tie`. Other
            columns are not looked at.
        place (`str`):
            Where the row stands, for error messages, such as `"train.jsonl, row 3"`.

    Returns:
        `PreferenceRow`: the checked row. `completions` whose `scores` say another order are sorted by score.

    Raises:
        `DataError`: if the row cannot be read as a preference pair.

    Example:

    ```python
    >>> question = {"role": "user", "content": "2 + 2?"}
    >>> yes, no = ({"role": "assistant", "content": text} for text in ("4", "5"))
    >>> row = parse_row({"chosen": [question, yes], "rejected": [question, no]}, "row 1")
    >>> row.prompt
    [{'role': 'user', 'content': '2 + 2?'}]
    >>> row == parse_row({"prompt": [question], "chosen": [yes], "rejected": [no]}, "row 1")
    True

    ```
    """
    prompt = {"prompt": side(row["prompt"], place, "prompt")} if "prompt" in row else {}
    sides = {name: side(value, place, name) for name, value in _named_sides(row, place).items()}
    check_same_form({**prompt, **sides}, place)
    shared, completions = prompt.get("prompt"), list(sides.values())
    if isinstance(completions[0], list):
        shared, completions = split_messages(shared, sides, place)
    completions, scores = _ranked(completions, row, place)
    return PreferenceRow(
        prompt=shared,
        completions=completions,
        tools=tool_schemas(row.get("tools"), place),
        chat_template_kwargs=template_kwargs(row.get("chat_template_kwargs"), place),
        margin=number(row, "margin", place),
        weight=number(row, "weight", place),
        scores=scores,
        **_judgement(row, place, len(completions)),
    )


def parse_token_row(row: Mapping[str, Any], place: str) -> TokenRow:
    """Checks one row of a pretokenised dataset.

    Raises:
        `DataError`: if a side is not a non-empty list of token ids, or a number column holds no number.

    Example:

    ```python
    >>> parse_token_row({"chosen_ids": [5, 6, 2], "rejected_ids": [5, 7, 2]}, "row 1").rejected_input_ids
    [5, 7, 2]

    ```
    """
    names = has_token_ids(row)
    if names is None:
        raise DataError(
            f"{place}: no token id columns (columns found: {listed(row)}; expected "
            "`chosen_input_ids` and `rejected_input_ids`, or `completion_input_ids`). Rename the columns."
        )
    sides = _members(row[names[0]], place, names[0]) if len(names) == 1 else {name: row[name] for name in names}
    completions, scores = _ranked([token_ids(ids, place, name) for name, ids in sides.items()], row, place)
    margin, weight = number(row, "margin", place), number(row, "weight", place)
    return TokenRow(completions, margin, weight, scores, **_judgement(row, place, len(completions)))


def prompt_key(row: PreferenceRow) -> str | None:
    """A text that is equal for equal prompts, to look for prompts that two datasets share; `None` without a prompt.

    Example:

    ```python
    >>> prompt_key(PreferenceRow([{"role": "user", "content": "Hi"}], ["a", "b"], None, {}, None, None))
    '[["user", "Hi"]]'

    ```
    """
    if isinstance(row.prompt, list):
        turns = [[message["role"], message.get("content")] for message in row.prompt]
        return json.dumps(turns, ensure_ascii=False, sort_keys=True) if turns else None
    return row.prompt or None


def _named_sides(row: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The completions under the names that messages give them."""
    if "completions" in row and not {"chosen", "rejected"}.issubset(row):
        return _members(row["completions"], place, "completions")
    if not {"chosen", "rejected"}.issubset(row):
        raise _missing_columns(row, place)
    return {"chosen": row["chosen"], "rejected": row["rejected"]}


def _members(value: Any, place: str, name: str) -> dict[str, Any]:
    if not isinstance(value, list) or len(value) < 2:
        remedy = "A preference needs two completions or more, best first; fill them in, or remove the row."
        raise wrong(place, name, shown(value), "a list of two or more", remedy)
    return {f"{name}[{index}]": item for index, item in enumerate(value)}


def _ranked(completions: list[Any], row: Mapping[str, Any], place: str) -> tuple[list[Any], list[float] | None]:
    """The completions with their scores, by score where the two disagree; the labels chosen and rejected stand."""
    values = row.get("scores")
    if values is None:
        return completions, None
    if not isinstance(values, list) or len(values) != len(completions):
        remedy = "Give one number for each completion, in their order, or remove the column."
        raise wrong(place, "scores", shown(values), f"a list of {len(completions)} numbers", remedy)
    remedy = "Give every completion a number, or remove the column."
    scores = [finite(value, place, f"scores[{index}]", remedy) for index, value in enumerate(values)]
    if "completions" in row or "completion_input_ids" in row:
        order = sorted(range(len(scores)), key=lambda index: -scores[index])
        return [completions[index] for index in order], [scores[index] for index in order]
    return completions, scores


def _judgement(row: Mapping[str, Any], place: str, count: int) -> dict[str, Any]:
    """`chosen_probability` and `tie`, which speak of two completions."""
    probability, tie = number(row, "chosen_probability", place), yes_or_no(row, "tie", place)
    if count > 2 and (probability is not None or tie):
        name = "tie" if tie else "chosen_probability"
        remedy = "Write each pair as a row of its own, or give `scores`."
        raise wrong(place, name, shown(row[name]), f"nothing beside {count} completions", remedy)
    return {"chosen_probability": probability, "tie": tie}


def _missing_columns(columns: Iterable[str], place: str) -> DataError:
    found = list(columns)
    missing = " and ".join(f"`{name}`" for name in ("chosen", "rejected") if name not in found)
    return DataError(
        f"{place}: no column {missing} (columns found: {listed(found)}). A preference pair "
        "needs `chosen` and `rejected`, with or without `prompt` (or ranked `completions`, or `chosen_input_ids` and "
        '`rejected_input_ids`); rename the columns by `column_map: {"theirs": "chosen"}`.'
    )
