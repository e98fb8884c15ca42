"""What a single value of a row must be, and how a value that is something else is named to its owner."""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from hf_reward.errors import DataError


# What the columns of a batch can hold: float32 numbers and 32-bit token ids.
_LARGEST_FLOAT32 = 3.4e38
_LARGEST_TOKEN_ID = 2**31 - 1

_KINDS = {"str": "text", "list": "a list", "dict": "an object", "bool": "a boolean", "float": "a number"}


def wrong(place: str, path: str, found: str, expected: str, remedy: str) -> DataError:
    """The error of a value that is not what it must be: where it stands, what it is, what was expected, what to do."""
    return DataError(f"{place}: `{path}` is {found} (expected {expected}). {remedy}")


def shown(value: Any) -> str:
    """A value as a message shows it: its kind, and the value if that is short."""
    if value is None:
        return "None"
    kind = _KINDS.get(type(value).__name__, type(value).__name__)
    try:
        text = ascii(value)
    except ValueError:  # an integer with more digits than Python prints
        return kind
    return f"{kind} {text if len(text) <= 40 else text[:37] + '...'}"


def listed(names: Iterable[Any]) -> str:
    """Names in one line, printable whatever they hold."""
    return _printable(", ".join(map(str, names))) or "none"


def is_list_of_objects(value: Any) -> bool:
    """Whether a value is a list with at least one object, and nothing but objects."""
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def clean(value: Any, place: str, path: str) -> Any:
    """Drops keys whose value is `None`, at every depth, and refuses text that no tokenizer could encode."""
    if isinstance(value, str):
        if value.isascii():
            return value
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise wrong(
                place,
                _printable(path),
                f"text with a lone surrogate, {value[error.start]!a}, at character {error.start}",
                "text that UTF-8 can hold",
                "Remove or replace that character.",
            ) from None
    if isinstance(value, dict):
        items = [(key, item) for key, item in value.items() if item is not None]
        return {clean(key, place, path): clean(item, place, f"{path}.{key}") for key, item in items}
    if isinstance(value, list):
        return [clean(item, place, f"{path}[{index}]") for index, item in enumerate(value)]
    return value


def number(row: Mapping[str, Any], name: str, place: str) -> float | None:
    """The number in an optional column; once the column is there, every row must have one."""
    if name not in row:
        return None
    value = finite(row[name], place, name, "Give every row a number, or remove the column.")
    if name == "weight" and value < 0:
        raise wrong(place, name, shown(value), "0 or more", "To prefer the other side, swap chosen and rejected.")
    if name == "chosen_probability" and not 0 <= value <= 1:
        raise wrong(place, name, shown(value), "a probability from 0 to 1", "Give the share of judges for chosen.")
    return value


def finite(value: Any, place: str, path: str, remedy: str) -> float:
    """A number that float32 can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong(place, path, shown(value), "a number", remedy)
    try:
        as_float = float(value)
    except OverflowError:
        as_float = math.inf
    if not math.isfinite(as_float) or abs(as_float) > _LARGEST_FLOAT32:
        raise wrong(place, path, shown(value), "a finite number", remedy)
    return as_float


def yes_or_no(row: Mapping[str, Any], name: str, place: str) -> bool:
    """The switch in an optional column; no value is no."""
    value = row.get(name)
    if value is not None and (not isinstance(value, bool | int) or value not in (0, 1)):
        raise wrong(place, name, shown(value), "true or false", "Write true or false, or leave it out.")
    return bool(value)


def token_ids(value: Any, place: str, path: str) -> list[int]:
    """A non-empty list of token ids."""
    remedy = "Tokenise the row again, or remove it."
    if not isinstance(value, list) or not value:
        raise wrong(place, path, shown(value), "a non-empty list of token ids", remedy)
    for index, token in enumerate(value):
        if type(token) is not int or not 0 <= token <= _LARGEST_TOKEN_ID:
            raise wrong(place, f"{path}[{index}]", shown(token), "a token id, 0 or more, below 2**31", remedy)
    return value


def tool_schemas(value: Any, place: str) -> list[dict[str, Any]] | None:
    """The column `tools`: a list of schemas, or JSON text of one; an empty list is none."""
    tools = _from_json(value, place, "tools")
    if tools is None or tools == []:
        return None
    if not is_list_of_objects(tools):
        remedy = "Write the tools as a list of schemas, or as one JSON text of such a list."
        raise wrong(place, "tools", shown(tools), "a list of objects", remedy)
    cleaned: list[dict[str, Any]] = clean(tools, place, "tools")
    return cleaned


def template_kwargs(value: Any, place: str) -> dict[str, Any]:
    """The column `chat_template_kwargs`: an object, or JSON text of one."""
    kwargs = _from_json(value, place, "chat_template_kwargs")
    if kwargs is None:
        return {}
    if not isinstance(kwargs, dict):
        remedy = 'Write names and values, such as {"enable_thinking": false}.'
        raise wrong(place, "chat_template_kwargs", shown(kwargs), "an object", remedy)
    cleaned: dict[str, Any] = clean(kwargs, place, "chat_template_kwargs")
    return cleaned


def _from_json(value: Any, place: str, path: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise wrong(place, path, shown(value), "JSON", f"It cannot be read: {error}. Correct the text.") from None


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
