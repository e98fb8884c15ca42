"""What the four dataclasses of a run accept: their keys, their types in words, and the strict parser over them."""

import json
from argparse import Action
from dataclasses import Field, fields
from functools import cache
from types import UnionType
from typing import TYPE_CHECKING, Any, NoReturn, Union, get_args, get_origin, get_type_hints

from hf_reward.config.seed_aliases import SEED_FIELDS


if TYPE_CHECKING:
    from transformers import HfArgumentParser

_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    dict: "a mapping",
    list: "a list",
    str: "text",
}


class ParserError(Exception):
    """The parser refused a value."""


def dataclass_types() -> tuple[Any, ...]:
    """`RewardConfig`, `DataArguments`, `ModelArguments` and `LaunchArguments`, imported when they are needed."""
    from hf_reward.config import DataArguments, LaunchArguments, ModelArguments, RewardConfig

    return RewardConfig, DataArguments, ModelArguments, LaunchArguments


@cache
def strict_parser() -> "HfArgumentParser":
    """The parser over the four dataclasses: no abbreviations, and an exception in place of usage and exit."""
    from transformers import HfArgumentParser

    class StrictParser(HfArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise ParserError(message)

    parser = StrictParser(dataclass_types(), allow_abbrev=False, add_help=False)
    for action in parser._actions:
        # Settings are parsed one by one, to say which one is wrong; so none is missed here.
        action.required = False
        if action.dest == "include_num_input_tokens_seen":
            # HfArgumentParser reads its type `str | bool` as bool and would refuse "all".
            action.type = lambda text: {"true": "all", "false": "no"}.get(text.lower(), text)
            action.choices = ("no", "all", "non_padding")
        if action.dest == "liger_kernel_config":
            action.type = json.loads
    return parser


@cache
def actions() -> dict[str, Action]:
    """The parser's action for each key."""
    # `--no_xxx` has the same destination and takes no value; `nargs` is 0 there.
    return {action.dest: action for action in strict_parser()._actions if action.nargs != 0}


@cache
def parameters() -> dict[str, Field[Any]]:
    """The dataclass field of each key."""
    return {parameter.name: parameter for kind in dataclass_types() for parameter in fields(kind)}


@cache
def hints() -> dict[str, Any]:
    """The type hint of each key."""
    everything = {name: hint for kind in dataclass_types() for name, hint in get_type_hints(kind).items()}
    return {key: everything[key] for key in parameters()}


def kinds(key: str) -> set[Any]:
    """The plain types of a key: {int, NoneType} for `int | None`, {list} for `list[str]`."""
    hint = hints().get(key)
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return {get_origin(member) or member for member in members}


def known_keys() -> list[str]:
    """Our keys, and the seed's."""
    return [*hints(), *SEED_FIELDS]


def takes_mappings(key: str) -> bool:
    """Whether a key takes a list of mappings, which goes through the parser as JSON text."""
    hint = hints().get(key)
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return any(get_origin(member) is list and get_origin(get_args(member)[0]) is dict for member in members)


def default_is_true(key: str) -> bool:
    """Whether a key is a switch that is on unless it is turned off, so that `--no_<key>` is understood."""
    return key in parameters() and parameters()[key].default is True


def expected(key: str) -> str:
    """What a key takes, in words."""
    row = SEED_FIELDS.get(key)
    if key not in hints():
        return expected(row.ours) if row is not None and row.kind == "alias" else "text"
    action, types = actions()[key], kinds(key)
    words = [word for kind, word in _WORDS.items() if kind in types]
    if action.choices:
        words = ["one of " + ", ".join(str(choice) for choice in action.choices)]
    if type(None) in types:
        words.append("none")
    return " or ".join(words) or "text"
