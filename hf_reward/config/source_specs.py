"""One source of preference data, as a recipe names it: a name alone, or a mapping with split, amount and the rest."""

import difflib
import json
import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from hf_reward.errors import ConfigurationError


DatasetFormat = Literal[
    "pairs",
    "ranked",
    "tokens",
    "hh",
    "sharegpt",
    "ultrafeedback",
    "ultrafeedback_binarized",
    "helpsteer2",
    "helpsteer2_preference",
    "helpsteer3",
]


@dataclass(frozen=True)
class SourceSpec:
    """
    What is asked of one source.

    Attributes:
        name (`str`): A Hub id, a file, a folder or a glob.
        config (`str`, *optional*): Configuration on the Hub.
        split (`str`, *optional*): The split to take; without one, the only one that there is.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.
        data_dir (`str`, *optional*): Folder inside the repository on the Hub.
        amount (`str`): With a dot a fraction of the split, without one a number of rows.
        weight (`float`, *optional*): What the weights of its pairs are multiplied by.
        column_map (`dict[str, str | None]`): Our name for a column, by its own; `None` leaves it out.
        format (`str`, *optional*): The format of its rows; found from columns and first rows if not given.
        test_split (`str`, *optional*): A split of the same source to evaluate on.
    """

    name: str
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    data_dir: str | None = None
    amount: str = "1.0"
    weight: float | None = None
    column_map: dict[str, str | None] = field(default_factory=dict)
    format: str | None = None
    test_split: str | None = None


_KEYS = tuple(parameter.name for parameter in fields(SourceSpec))
_TEXTS = ("name", "config", "split", "revision", "data_dir", "format", "test_split")


def read_source(value: Any, place: str, split: str | None) -> SourceSpec:
    """
    A source from a recipe.

    Args:
        value (`str` or `dict`): Its name, or its keys and values; `path` is another word for `name`.
        place (`str`): Where it stands, for messages, such as `` "`datasets`: entry 2" ``.
        split (`str`, *optional*): The split where none is named.

    Raises:
        `ConfigurationError`: A key or a value is not understood.

    Examples:

    >>> read_source({"path": "pairs.jsonl", "amount": 0.5}, "`datasets`: entry 1", "train").amount
    '0.5'
    """
    given = {"name": value} if isinstance(value, str) else value
    if not isinstance(given, dict):
        raise ConfigurationError(
            f"{place}: found {value!r}; expected a name, or a mapping such as {{name: pairs.jsonl}}"
        )
    if "path" in given and "name" not in given:
        given = {"name" if key == "path" else key: item for key, item in given.items()}
    for key in given:
        if key not in _KEYS:
            near = difflib.get_close_matches(str(key), _KEYS, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"expected some of {', '.join(_KEYS)}"
            raise ConfigurationError(f"{place}: unknown key `{key}`; {hint}")
    if not given.get("name"):
        raise ConfigurationError(f"{place}: found no `name`; expected a Hub id, a file, a folder or a glob")
    checked = {key: _value(key, item, place) for key, item in given.items() if item is not None}
    return SourceSpec(**{"split": split} | checked)


def read_column_map(value: Any, place: str) -> dict[str, str | None]:
    """
    A column map: our name by theirs, `None` (or no text) for a column to leave out.

    Raises:
        `ConfigurationError`: It is no mapping of names to names, or two columns would get one name.
    """
    if not isinstance(value, dict) or not all(
        isinstance(k, str) and isinstance(v, str | None) for k, v in value.items()
    ):
        raise ConfigurationError(
            f"{place}: found {value!r}; expected names of columns by their names: {{theirs: ours}}"
        )
    names = [ours for ours in value.values() if ours]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigurationError(f"{place}: found two columns that become `{twice}`; expected one")
    return {theirs: ours or None for theirs, ours in value.items()}


def from_json(value: Any, place: str, kind: type, words: str) -> Any:
    """
    A list or a mapping, which a command line gives as JSON text.

    Raises:
        `ConfigurationError`: It is something else.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ConfigurationError(f"{place}: found {value!r}; expected {words} in JSON ({error})") from None
    if not isinstance(value, kind) or not value:
        raise ConfigurationError(f"{place}: found {value!r}; expected {words}")
    return value


def parse_amount(text: str) -> int | float:
    """
    How much of a source to take.

    Args:
        text (`str`):
            With a dot, a fraction of the source (`"1.0"` is all of it, `"2.5"` two and a half times); without a dot,
            a number of pairs.

    Returns:
        `int` or `float`: A number of pairs (`int`), or a fraction (`float`).

    Raises:
        `ConfigurationError`: The text is neither.

    Example:
        >>> parse_amount("1"), parse_amount("0.5")
        (1, 0.5)
    """
    expected = "a fraction above 0 with a dot (0.5), or a number of pairs without one (500)"
    try:
        amount: int | float = float(text) if "." in text else int(text)
    except (ValueError, TypeError):
        raise ConfigurationError(f"found the amount {text!r}; expected {expected}") from None
    if not (math.isfinite(amount) and amount > 0):
        raise ConfigurationError(f"found the amount {text!r}; expected {expected}")
    return amount


def _value(key: str, value: Any, place: str) -> Any:
    if key == "column_map":
        return read_column_map(value, f"{place}: `column_map`")
    if key == "amount":
        amount = str(value)
        try:
            parse_amount(amount)
        except ConfigurationError as error:
            raise ConfigurationError(f"{place}: {error}") from None
        return amount
    if key == "weight":
        if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value >= 0):
            raise ConfigurationError(f"{place}: `weight`: found {value!r}; expected a number, 0 or more")
        return float(value)
    if key == "format" and value not in get_args(DatasetFormat):
        choices = ", ".join(get_args(DatasetFormat))
        raise ConfigurationError(f"{place}: `format`: found {value!r}; expected one of {choices}")
    if key in _TEXTS and not isinstance(value, str):
        # A revision of digits, or a split called 1, is a number to YAML.
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        raise ConfigurationError(f"{place}: `{key}`: found {value!r}; expected text")
    return value
