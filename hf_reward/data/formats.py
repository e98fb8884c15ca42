"""Row formats: which columns a preference row may have, and one row checked and brought to one shape.

Every message of an error names the place, the column path, what was found, what was expected and what to do.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hf_reward.errors import DataError


ROLES = ("system", "user", "assistant", "tool", "developer")
TOKEN_ID_COLUMNS = (("chosen_input_ids", "rejected_input_ids"), ("chosen_ids", "rejected_ids"))

# Names that other formats give to our roles, for the remedy in the message.
_OTHER_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant", "function": "tool"}

# What the columns of a batch can hold: float32 numbers and 32-bit token ids.
_LARGEST_FLOAT32 = 3.4e38
_LARGEST_TOKEN_ID = 2**31 - 1

Message = dict[str, Any]


@dataclass(frozen=True)
class PreferenceRow:
    """One preference pair in the one shape that the rest of the package reads.

    Attributes:
        prompt (`list[dict]` or `str`, *optional*):
            What all completions have in common: messages, or text. `None` only for plain text without a `prompt`
            column. An empty list stands for conversations that differ from their first message on.
        completions (`list[list[dict]]` or `list[str]`):
            The completions without the prompt, best first: chosen, then rejected.
        tools (`list[dict]`, *optional*):
            Tool schemas for the chat template.
        chat_template_kwargs (`dict`):
            Further arguments of this row for the chat template.
        margin (`float`, *optional*):
            The reward difference that is required of this pair.
        weight (`float`, *optional*):
            The weight of this pair in the loss, not negative.
    """

    prompt: list[Message] | str | None
    completions: list[list[Message]] | list[str]
    tools: list[dict[str, Any]] | None
    chat_template_kwargs: dict[str, Any]
    margin: float | None
    weight: float | None


@dataclass(frozen=True)
class TokenRow:
    """One preference pair that is already tokenised: the ids of both sides, prompt included."""

    chosen_input_ids: list[int]
    rejected_input_ids: list[int]
    margin: float | None
    weight: float | None


def has_token_ids(columns: Iterable[str]) -> tuple[str, str] | None:
    """Names the two token id columns of a pretokenised dataset, or returns `None`.

    Example:

    ```python
    >>> has_token_ids(["chosen_ids", "rejected_ids", "margin"])
    ('chosen_ids', 'rejected_ids')
    >>> has_token_ids(["chosen", "rejected"]) is None
    True

    ```
    """
    found = set(columns)
    return next((pair for pair in TOKEN_ID_COLUMNS if found.issuperset(pair)), None)


def check_columns(columns: Iterable[str], place: str) -> None:
    """Checks, before any row is read, that the columns can make a preference pair.

    Raises:
        `DataError`: if neither `chosen` and `rejected` nor two token id columns are there.
    """
    found = list(columns)
    if has_token_ids(found) is None and not {"chosen", "rejected"}.issubset(found):
        raise _missing_columns(found, place)


def parse_row(row: Mapping[str, Any], place: str) -> PreferenceRow:
    """Checks one raw row and brings it to one shape.

    The two spellings of a pair, with an explicit `prompt` and with whole conversations in `chosen` and `rejected`,
    give the same result. Keys whose value is `None` are left out of messages, tools and template arguments: Arrow
    fills them in where other rows have them.

    Args:
        row (`Mapping[str, Any]`):
            The columns of one row: `chosen` and `rejected`, and if wanted `prompt`, `tools`, `chat_template_kwargs`,
            `margin` and `weight`. Other columns are not looked at.
        place (`str`):
            Where the row stands, for error messages, such as `"train.jsonl, row 3"`.

    Returns:
        `PreferenceRow`: the checked row.

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
    if not {"chosen", "rejected"}.issubset(row):
        raise _missing_columns(row, place)
    sides = {name: _side(row[name], place, name) for name in ("prompt", "chosen", "rejected") if name in row}
    _check_same_form(sides, place)
    prompt, chosen, rejected = sides.get("prompt"), sides["chosen"], sides["rejected"]
    if isinstance(chosen, list):
        prompt, chosen, rejected = _split_messages(prompt, chosen, rejected, place)
    return PreferenceRow(
        prompt=prompt,
        completions=[chosen, rejected],
        tools=_tools(row.get("tools"), place),
        chat_template_kwargs=_template_kwargs(row.get("chat_template_kwargs"), place),
        margin=_number(row, "margin", place),
        weight=_number(row, "weight", place),
    )


def parse_token_row(row: Mapping[str, Any], place: str) -> TokenRow:
    """Checks one row of a pretokenised dataset.

    Raises:
        `DataError`: if a side is not a non-empty list of token ids, or `margin` or `weight` is not a number.

    Example:

    ```python
    >>> parse_token_row({"chosen_ids": [5, 6, 2], "rejected_ids": [5, 7, 2]}, "row 1").rejected_input_ids
    [5, 7, 2]

    ```
    """
    names = has_token_ids(row)
    if names is None:
        raise DataError(
            f"{place}: no token id columns (columns found: {_listed(row)}; expected "
            "`chosen_input_ids` and `rejected_input_ids`). Rename the columns."
        )
    chosen, rejected = (_token_ids(row[name], place, name) for name in names)
    return TokenRow(chosen, rejected, _number(row, "margin", place), _number(row, "weight", place))


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


def _missing_columns(columns: Iterable[str], place: str) -> DataError:
    found = list(columns)
    missing = " and ".join(f"`{name}`" for name in ("chosen", "rejected") if name not in found)
    return DataError(
        f"{place}: no column {missing} (columns found: {_listed(found)}). A preference pair "
        "needs `chosen` and `rejected`, with or without `prompt` (or `chosen_input_ids` and `rejected_input_ids`); "
        "rename the columns."
    )


def _wrong(place: str, path: str, found: str, expected: str, remedy: str) -> DataError:
    return DataError(f"{place}: `{path}` is {found} (expected {expected}). {remedy}")


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _listed(names: Iterable[Any]) -> str:
    return _printable(", ".join(map(str, names))) or "none"


def _shown(value: Any) -> str:
    """A value as a message shows it: its kind, and the value if that is short."""
    if value is None:
        return "None"
    kinds = {"str": "text", "list": "a list", "dict": "an object", "bool": "a boolean", "float": "a number"}
    kind = kinds.get(type(value).__name__, type(value).__name__)
    try:
        text = ascii(value)
    except ValueError:  # an integer with more digits than Python prints
        return kind
    return f"{kind} {text if len(text) <= 40 else text[:37] + '...'}"


def _clean(value: Any, place: str, path: str) -> Any:
    """Drops keys whose value is `None`, at every depth, and refuses text that no tokenizer could encode."""
    if isinstance(value, dict):
        items = [(key, item) for key, item in value.items() if item is not None]
        return {_clean(key, place, path): _clean(item, place, f"{path}.{key}") for key, item in items}
    if isinstance(value, list):
        return [_clean(item, place, f"{path}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise _wrong(
                place,
                _printable(path),
                f"text with a lone surrogate, {value[error.start]!a}, at character {error.start}",
                "text that UTF-8 can hold",
                "Remove or replace that character.",
            ) from None
    return value


def _side(value: Any, place: str, path: str) -> Any:
    """The prompt or one completion: text as it is, messages checked; one message alone becomes a list."""
    if isinstance(value, str):
        return _clean(value, place, path)
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list) or not value:
        remedy = "Fill the value in, or remove the row" + (" or the column." if path == "prompt" else ".")
        raise _wrong(place, path, _shown(value), "text or a list of messages", remedy)
    return [_message(message, place, f"{path}[{index}]") for index, message in enumerate(value)]


def _check_same_form(sides: dict[str, Any], place: str) -> None:
    forms = {name: "text" if isinstance(side, str) else "messages" for name, side in sides.items()}
    first = next(iter(forms))
    for name, form in forms.items():
        if form != forms[first]:
            raise DataError(
                f"{place}: {first} is {forms[first]}, {name} is {form} (expected one form for all). "
                "Write all of them as text, or all as lists of messages."
            )


def _message(message: Any, place: str, path: str) -> Message:
    if not isinstance(message, dict):
        raise _wrong(
            place, path, _shown(message), "a message", 'Write each turn as {"role": "user", "content": "..."}.'
        )
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        other = _OTHER_ROLES.get(role) if isinstance(role, str) else None
        remedy = f"Write `{other}` in its place." if other else "Rename the role."
        if "role" not in message:
            remedy = f'The keys found are {_listed(message)}; write each turn as {{"role": "user", "content": "..."}}.'
        raise _wrong(place, f"{path}.role", _shown(role), f"one of {', '.join(ROLES)}", remedy)
    if content is None and not (role == "assistant" and _is_list_of_objects(message.get("tool_calls"))):
        remedy = "Write the text, or remove the row; only an assistant turn with `tool_calls` may go without content."
        raise _wrong(place, f"{path}.content", "None", "text", remedy)
    if content is not None and not isinstance(content, str):
        _check_parts(content, place, f"{path}.content")
    cleaned: Message = _clean(message, place, path)
    return cleaned


def _check_parts(content: Any, place: str, path: str) -> None:
    """Content that is not text must be a list of text parts."""
    remedy = 'Write the content as text, or as a list of {"type": "text", "text": "..."}.'
    if not isinstance(content, list) or not content:
        raise _wrong(place, path, _shown(content), "text", remedy)
    for index, part in enumerate(content):
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise _wrong(place, f"{path}[{index}]", _shown(part), "a part of type text", remedy)


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _split_messages(
    prompt: list[Message] | None, chosen: list[Message], rejected: list[Message], place: str
) -> tuple[list[Message], list[Message], list[Message]]:
    sides = {"chosen": chosen, "rejected": rejected}
    for name, side in sides.items():
        if side[-1]["role"] != "assistant":
            remedy = "End it with the answer that was judged."
            raise _wrong_role(place, f"{name}[{len(side) - 1}]", side[-1], "assistant at the end", remedy)
    if prompt is None:
        shared = _shared_turns(chosen, rejected)
        return chosen[:shared], chosen[shared:], rejected[shared:]
    if prompt[-1]["role"] == "assistant":
        remedy = "Move that turn to the start of both completions."
        raise _wrong_role(place, f"prompt[{len(prompt) - 1}]", prompt[-1], "another role at the end", remedy)
    for name, side in sides.items():
        if side[0]["role"] != "assistant":
            remedy = "Beside a prompt write the answer only, or remove `prompt` if both sides hold the conversation."
            raise _wrong_role(place, f"{name}[0]", side[0], "assistant at the start", remedy)
    return prompt, chosen, rejected


def _wrong_role(place: str, path: str, message: Message, expected: str, remedy: str) -> DataError:
    return _wrong(place, f"{path}.role", _shown(message["role"]), expected, remedy)


def _shared_turns(chosen: list[Message], rejected: list[Message]) -> int:
    """How many turns the two conversations share as prompt, so that the turn after it is an answer on both sides."""
    shared, most = 0, min(len(chosen), len(rejected)) - 1
    while shared < most and chosen[shared] == rejected[shared]:
        shared += 1
    # A prompt asks: where the sides part after an answer, or at a question or a tool result, the turns before belong
    # to the completions.
    while shared and (chosen[shared]["role"] != "assistant" or rejected[shared]["role"] != "assistant"):
        shared -= 1
    return shared


def _tools(value: Any, place: str) -> list[dict[str, Any]] | None:
    tools = _from_json(value, place, "tools")
    if tools is None or tools == []:
        return None
    if not _is_list_of_objects(tools):
        remedy = "Write the tools as a list of schemas, or as one JSON text of such a list."
        raise _wrong(place, "tools", _shown(tools), "a list of objects", remedy)
    cleaned: list[dict[str, Any]] = _clean(tools, place, "tools")
    return cleaned


def _template_kwargs(value: Any, place: str) -> dict[str, Any]:
    kwargs = _from_json(value, place, "chat_template_kwargs")
    if kwargs is None:
        return {}
    if not isinstance(kwargs, dict):
        remedy = 'Write names and values, such as {"enable_thinking": false}.'
        raise _wrong(place, "chat_template_kwargs", _shown(kwargs), "an object", remedy)
    cleaned: dict[str, Any] = _clean(kwargs, place, "chat_template_kwargs")
    return cleaned


def _from_json(value: Any, place: str, path: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise _wrong(place, path, _shown(value), "JSON", f"It cannot be read: {error}. Correct the text.") from None


def _number(row: Mapping[str, Any], name: str, place: str) -> float | None:
    """The number in an optional column; once the column is there, every row must have one."""
    if name not in row:
        return None
    value = row[name]
    remedy = "Give every row a number, or remove the column."
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(place, name, _shown(value), "a number", remedy)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or abs(number) > _LARGEST_FLOAT32:
        raise _wrong(place, name, _shown(value), "a finite number", remedy)
    if name == "weight" and number < 0:
        raise _wrong(place, name, _shown(value), "0 or more", "To prefer the other side, swap chosen and rejected.")
    return number


def _token_ids(value: Any, place: str, path: str) -> list[int]:
    remedy = "Tokenise the row again, or remove it."
    if not isinstance(value, list) or not value:
        raise _wrong(place, path, _shown(value), "a non-empty list of token ids", remedy)
    for index, token in enumerate(value):
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token <= _LARGEST_TOKEN_ID:
            raise _wrong(place, f"{path}[{index}]", _shown(token), "a token id, 0 or more, below 2**31", remedy)
    return value
