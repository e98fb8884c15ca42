"""The three places where settings stand (a YAML recipe, a command line, a Python call), read into one form."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn

import yaml

from hf_reward.cli.schema import default_is_true, expected, kinds, known_keys, takes_mappings
from hf_reward.config.seed_aliases import SEED_FIELDS
from hf_reward.errors import ConfigurationError


Value = str | list[str] | dict[str, Any] | None

_SCALAR_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "timestamp", "value")}
_EXAMPLE = "expected lines such as `learning_rate: 1e-5`"


@dataclass(frozen=True)
class Setting:
    """
    One key with its value, and where it stands.

    Parameters:
        key (`str`):
            The key as it is written.
        value (`str`, `list[str]`, `dict` or `None`):
            The value, numbers and switches in source text. `None` stands for null.
        place (`str`):
            File and line, `"command line"` or `"arguments"`.
        words_only (`bool`, *optional*, defaults to `False`):
            Whether the place has words and no null, so that the word `none` stands for it in text too.
    """

    key: str
    value: Value
    place: str
    words_only: bool = False

    @property
    def text(self) -> str:
        """The value in one line, as the seed's table writes it."""
        if isinstance(self.value, list):
            return " ".join(self.value)
        return "none" if self.value is None else str(self.value)

    def is_null(self, text_field: bool) -> bool:
        """Whether the value is null, or the word for it in a place or a field where it can mean nothing else."""
        word = isinstance(self.value, str) and self.value.lower() in ("none", "null")
        return self.value is None or (word and (self.words_only or not text_field))

    def refuse(self, expectation: str) -> NoReturn:
        """
        Raises:
            `ConfigurationError`: Always; names the place, the key and what was found.
        """
        found = repr(self.value)
        if self.value is None:
            found = "null"
        elif isinstance(self.value, list):
            found = f"the list [{', '.join(self.value)}]"
        elif isinstance(self.value, dict):
            found = "a mapping"
        raise ConfigurationError(f"{self.place}: `{self.key}`: found {found}; expected {expectation}")


def read_recipe(path: str | os.PathLike[str]) -> list[Setting]:
    """
    Reads a flat YAML mapping.

    Args:
        path (`str` or `os.PathLike`):
            The file.

    Returns:
        `list[Setting]`: Its entries, in order.

    Raises:
        `ConfigurationError`: The file cannot be read, or is not a flat mapping with each key once.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text in UTF-8"
        raise ConfigurationError(f"{path}: cannot read this recipe: {reason}; expected a YAML file") from None
    try:
        return _read_mapping(text, str(path))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, ConfigurationError):
            raise
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigurationError(f"{path}{line}: this is not the YAML of a recipe: {problem}; {_EXAMPLE}") from None


def read_command_line(argv: list[str]) -> list[Setting]:
    """
    Reads `--key value`, `--key value value`, `--key=value`, `--switch` and `--no_switch`, with `_` or `-` in keys.

    Args:
        argv (`list[str]`):
            The words.

    Returns:
        `list[Setting]`: The settings, in order.

    Raises:
        `ConfigurationError`: A word stands where none can, or a key has no value.
    """
    options: list[tuple[str, list[str]]] = []
    complete = True
    for word in argv:
        if word.startswith("--") and len(word) > 2:
            name, equals, text = word[2:].partition("=")
            options.append((name, [text] if equals else []))
            complete = bool(equals)
        elif complete:
            raise ConfigurationError(f"command line: found {word!r}; expected [RECIPE.yaml] first, then --key value")
        else:
            options[-1][1].append(word)
    return [_read_option(name, values) for name, values in options]


def read_values(values: Mapping[str, Any]) -> list[Setting]:
    """
    Reads Python values.

    Args:
        values (`Mapping[str, Any]`):
            Keys, and text, numbers, switches, lists, mappings, paths, enum members or `None`.

    Returns:
        `list[Setting]`: The settings, in order.

    Raises:
        `ConfigurationError`: A value is of another type.
    """
    return [Setting(key, _to_text(key, to_plain(value)), "arguments") for key, value in values.items()]


def to_plain(value: Any) -> Any:
    """A value in the types of YAML: enum members by value, paths as text, tuples as lists."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    return value


class _RecipeLoader(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys; here the second is refused, at every depth."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        _refuse_duplicates(node)
        return super().construct_mapping(node, deep=deep)


# YAML 1.1 wants a dot in `1e-6`; in a nested mapping, as in `lr_scheduler_kwargs: {min_lr: 1e-6}`, it is meant as a
# number too.
_RecipeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _refuse_duplicates(node: yaml.MappingNode) -> None:
    lines: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        name = str(key.value)
        if name in lines:
            place = f"{node.start_mark.name}, line {line}"
            raise ConfigurationError(f"{place}: `{name}` is already set in line {lines[name]}; expected each key once")
        lines[name] = line


def _read_mapping(text: str, name: str) -> list[Setting]:
    loader = _RecipeLoader(text)
    loader.name = name
    try:
        node = loader.get_single_node()
        if node is None:
            raise ConfigurationError(f"{name}: this recipe is empty; {_EXAMPLE}")
        if not isinstance(node, yaml.MappingNode):
            kind = "a list" if isinstance(node, yaml.SequenceNode) else "one value"
            raise ConfigurationError(f"{name}: found {kind}; {_EXAMPLE}")
        _refuse_duplicates(node)
        return [_read_entry(loader, key, value) for key, value in node.value]
    finally:
        loader.dispose()


def _read_entry(loader: _RecipeLoader, key: yaml.Node, node: yaml.Node) -> Setting:
    place = f"{loader.name}, line {key.start_mark.line + 1}"
    if not isinstance(key, yaml.ScalarNode):
        raise ConfigurationError(f"{place}: found a key that is not a name; {_EXAMPLE}")
    # Scalars keep their source text: to YAML `2e-5` is a string and `no` is false, and in a list of amounts 1 and 1.0
    # mean different things.
    if isinstance(node, yaml.ScalarNode):
        return Setting(key.value, _scalar(node, place, key.value), place)
    if isinstance(node, yaml.SequenceNode):
        if not node.tag.endswith(":seq"):
            raise ConfigurationError(f"{place}: `{key.value}`: found the tag {node.tag!r}; expected a plain list")
        if takes_mappings(key.value) and any(isinstance(item, yaml.MappingNode) for item in node.value):
            return Setting(key.value, json.dumps(loader.construct_object(node, deep=True), default=str), place)
        items = [_scalar(item, place, key.value) for item in node.value]
        texts = [item for item in items if item is not None]
        if len(texts) < len(items):
            raise ConfigurationError(f"{place}: `{key.value}`: found null in a list; expected text or numbers")
        return Setting(key.value, texts, place)
    return Setting(key.value, loader.construct_object(node, deep=True), place)


def _scalar(node: yaml.Node, place: str, key: str) -> str | None:
    if not isinstance(node, yaml.ScalarNode):
        raise ConfigurationError(f"{place}: `{key}`: found nested values; expected one value or a flat list")
    if node.tag not in _SCALAR_TAGS:
        raise ConfigurationError(f"{place}: `{key}`: found the tag {node.tag!r}; expected a plain value")
    return None if node.tag.endswith(":null") else str(node.value)


def _read_option(name: str, values: list[str]) -> Setting:
    key = name if "_" in name else name.replace("-", "_")
    if values:
        return Setting(key, values[0] if len(values) == 1 else values, "command line", words_only=True)
    if key.startswith("no_") and default_is_true(key.removeprefix("no_")):
        return Setting(key.removeprefix("no_"), "false", "command line")
    row = SEED_FIELDS.get(key)
    # Switches of the seed that are no fields of ours are judged by its table.
    is_switch = bool in kinds(key) or (row is not None and (row.ours == "" or key == "with_tracking"))
    if key in known_keys() and not is_switch:
        raise ConfigurationError(f"command line: `--{name}`: found no value; expected {expected(key)}")
    return Setting(key, "true", "command line")


def _to_text(key: str, value: Any) -> Value:
    if value is None or isinstance(value, str | dict):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        if takes_mappings(key) and any(isinstance(item, dict) for item in value):
            return json.dumps(value, default=str)
        texts = [_to_text(key, item) for item in value]
        if all(isinstance(text, str) for text in texts):
            return [str(text) for text in texts]
    raise ConfigurationError(f"arguments: `{key}`: found {type(value).__name__}; expected text, a number or a list")
