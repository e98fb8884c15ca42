"""Recipe and command line to dataclasses, and back: settings are named, merged, typed by one strict parser, built."""

import difflib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from hf_reward.cli.launch import is_launched
from hf_reward.cli.schema import ParserError, actions, expected, hints, kinds, known_keys, strict_parser
from hf_reward.cli.sources import Setting, read_command_line, read_recipe, read_values, to_plain
from hf_reward.config.seed_aliases import SEED_FIELDS, check_refused, combine
from hf_reward.errors import ConfigurationError
from hf_reward.redaction import without_secrets


if TYPE_CHECKING:
    from hf_reward.config import DataArguments, LaunchArguments, ModelArguments, RewardConfig

PROG = "hf_reward-train"

# For this one, the word "none" is a value of its own.
_KEEPS_NONE = "report_to"
_PYTHON_ONLY = "parallelism_config"


def parse(argv: list[str], *, prog: str = PROG) -> "tuple[RewardConfig, DataArguments, ModelArguments]":
    """
    Reads `[RECIPE.yaml] [--key value | --key=value ...]`. Values of the command line win over the recipe's.

    Args:
        argv (`list[str]`):
            The arguments of the command, without its name.
        prog (`str`, *optional*, defaults to `"hf_reward-train"`):
            Name of the command, for messages.

    Returns:
        `tuple[RewardConfig, DataArguments, ModelArguments]`: The configuration of a run.

    Raises:
        `ConfigurationError`: A key or a value is not understood; the message says which, and where it stands.
    """
    return _resolve(_read(argv), prog)


def parse_launch(argv: list[str]) -> "LaunchArguments":
    """
    What the same words say about the processes of the run; nothing else is looked at.

    Args:
        argv (`list[str]`):
            The arguments of the command, without its name.

    Returns:
        `LaunchArguments`: How to start them.

    Raises:
        `ConfigurationError`: A value is not understood.
    """
    return _launch_arguments(_read(argv))


def parse_call(
    recipe: str | os.PathLike[str] | None, overrides: Mapping[str, Any], *, prog: str = PROG
) -> "tuple[RewardConfig, DataArguments, ModelArguments]":
    """
    The programmatic form of [`parse`]: a recipe, and Python values that win over it.

    Args:
        recipe (`str` or `os.PathLike`, *optional*):
            The recipe's file.
        overrides (`Mapping[str, Any]`):
            Keys, our names or the seed's, and values. `None` is null in a recipe.
        prog (`str`, *optional*, defaults to `"hf_reward-train"`):
            Name of the command, for messages.

    Returns:
        `tuple[RewardConfig, DataArguments, ModelArguments]`: The configuration of a run.

    Raises:
        `ConfigurationError`: A key or a value is not understood; the message says which, and where it stands.
    """
    settings = read_values(overrides)
    sources = [settings] if recipe is None else [read_recipe(recipe), settings]
    launch = _launch_arguments(sources)
    if launch.accelerate_config is not None and not is_launched():
        raise ConfigurationError(
            f"`accelerate_config`: found {launch.accelerate_config!r}; run_training starts no processes. Run the "
            "recipe by `hf_reward-train`, or start the script by `accelerate launch` and leave it out."
        )
    return _resolve(sources, prog)


def to_recipe(config: "RewardConfig", data: "DataArguments", model: "ModelArguments") -> dict[str, Any]:
    """
    The recipe that gives these dataclasses again: what differs from the defaults, without secrets.

    Args:
        config (`RewardConfig`):
            The training configuration.
        data (`DataArguments`):
            The sources.
        model (`ModelArguments`):
            The model.

    Returns:
        `dict[str, Any]`: Keys and plain values, ready for `yaml.safe_dump(..., sort_keys=False)`.
    """
    from hf_reward.config.reward_config import LORA_LEARNING_RATE, default_of

    recipe: dict[str, Any] = {}
    for arguments in (model, data):
        for parameter in fields(arguments):
            value = getattr(arguments, parameter.name)
            if parameter.name.endswith("_splits") and len(set(value)) == 1:
                value = value[:1]
            if value != default_of(parameter):
                recipe[parameter.name] = value
    recipe |= config.given() | {"output_dir": config.output_dir}
    if model.use_peft:
        # With adapters the default is another one, so that 1e-5 is a value to keep.
        recipe["learning_rate"] = config.learning_rate
        if config.learning_rate == LORA_LEARNING_RATE:
            del recipe["learning_rate"]
    for key in config._VALID_DICT_FIELDS:
        if isinstance(recipe.get(key), str) and recipe[key].startswith("{"):
            recipe[key] = json.loads(recipe[key])
    plain: dict[str, Any] = without_secrets(to_plain(recipe))
    return plain


def _read(argv: list[str]) -> list[list[Setting]]:
    if argv and not argv[0].startswith("-"):
        return [read_recipe(argv[0]), read_command_line(argv[1:])]
    return [read_command_line(argv)]


def _launch_arguments(sources: list[list[Setting]]) -> "LaunchArguments":
    from hf_reward.config import LaunchArguments

    given = {setting.key: setting for source in sources for setting in source}
    keys = [parameter.name for parameter in fields(LaunchArguments)]
    return LaunchArguments(**{key: _typed(given[key]) for key in keys if key in given})


def _resolve(sources: list[list[Setting]], prog: str) -> "tuple[RewardConfig, DataArguments, ModelArguments]":
    from hf_reward.config import DataArguments, ModelArguments, RewardConfig
    from hf_reward.config.reward_config import LORA_LEARNING_RATE

    settings = _merge(sources, prog)
    environment = _combine(settings)
    values = {key: _typed(setting) for key, setting in settings.items()}
    for key, what in (("output_dir", "a folder for the results"), ("model_name_or_path", "a Hub id or a folder")):
        if not values.get(key):
            raise ConfigurationError(f"`{key}`: found nothing; expected {what}")
    if values.get("use_peft"):
        values.setdefault("learning_rate", LORA_LEARNING_RATE)
    try:
        # RewardConfig last, because it starts the device.
        model = _build(ModelArguments, values)
        data = _build(DataArguments, values)
        config = _build(RewardConfig, values)
    except (ValueError, TypeError, OSError) as error:
        named = re.match(r"`(\w+)`", str(error))
        place = settings[named[1]].place if named and named[1] in settings else None
        raise ConfigurationError(f"{place}: {error}" if place else str(error)) from error
    os.environ.update(environment)
    return config, data, model


def _build(kind: Any, values: dict[str, Any]) -> Any:
    names = {parameter.name for parameter in fields(kind)}
    return kind(**{name: value for name, value in values.items() if name in names})


def _merge(sources: list[list[Setting]], prog: str) -> dict[str, Setting]:
    """Our keys and the settings that win; later sources win over earlier ones."""
    merged: dict[str, Setting] = {}
    for source in sources:
        here: dict[str, Setting] = {}
        written: dict[str, str] = {}
        for given in source:
            setting = _translate(given, prog)
            if setting is None:
                continue
            if setting.key in here:
                first = written[setting.key]
                twice = "twice" if first == given.key else f"as `{first}` and as `{given.key}`"
                raise ConfigurationError(f"{given.place}: `{setting.key}` is given {twice}; expected it once")
            here[setting.key], written[setting.key] = setting, given.key
        if "exp_name" in here:
            merged.pop("run_name", None)
        merged |= here
    return merged


def _translate(setting: Setting, prog: str) -> Setting | None:
    """The setting under our key; `None` for a field of the seed whose value changes nothing."""
    row = SEED_FIELDS.get(setting.key)
    if setting.key in hints():
        return setting
    if row is None:
        near = difflib.get_close_matches(setting.key, known_keys(), n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"`{prog} --help all` lists the keys"
        raise ConfigurationError(f"{setting.place}: unknown key `{setting.key}`; {hint}")
    if setting.key == "with_tracking":
        switches = {"true": "wandb", "false": "none"}
        if setting.text.lower() not in switches:
            setting.refuse("true or false")
        return replace(setting, key=row.ours, value=switches[setting.text.lower()])
    if row.kind == "alias":
        return replace(setting, key=row.ours)
    if row.kind == "combined":
        if not isinstance(setting.value, str | None):
            setting.refuse("text")
        return None if not setting.value or setting.is_null(text_field=True) else setting
    try:
        check_refused(row, setting.text)
    except ConfigurationError as error:
        raise ConfigurationError(f"{setting.place}: `{setting.key}`: {error}") from None
    return None


def _combine(settings: dict[str, Setting]) -> dict[str, str]:
    """Replaces the seed's fields that go together by ours, in place; returns environment variables to set."""
    combined = [key for key in settings if key not in hints()]
    together = [*combined, *(key for key in ("run_name", "hub_model_id") if key in settings)]
    values = {key: settings[key].text for key in together if settings[key].value is not None}
    ours, environment = combine(values, seed=settings["seed"].text if "seed" in settings else "42")
    for key, text in ours.items():
        settings[key] = Setting(key, text, settings[combined[0]].place)
    for key in combined:
        del settings[key]
    return environment


def _typed(setting: Setting) -> Any:
    """The value in the type of its field; the parser converts, and refuses what it cannot."""
    key, value, types = setting.key, setting.value, kinds(setting.key)
    if key == _PYTHON_ONLY:
        setting.refuse("nothing: this one can be given to RewardConfig in Python only")
    if value is None and type(None) not in types:
        setting.refuse(expected(key))
    if value is None or (type(None) in types and key != _KEEPS_NONE and setting.is_null(text_field=str in types)):
        return None
    if isinstance(value, list):
        if list not in types:
            setting.refuse(expected(key))
        if not value or actions()[key].nargs != "+":
            return value
        if any(item.startswith("-") for item in value):
            setting.refuse("values that do not begin with a dash")
        return _parse(setting, [f"--{key}", *value])
    if isinstance(value, dict):
        if dict not in types:
            setting.refuse(f"{expected(key)}; recipes are flat")
        value = json.dumps(value, default=str)
    elif dict in types and value.startswith("{"):
        try:
            json.loads(value)
        except ValueError as error:
            setting.refuse(f"a mapping in JSON ({error})")
    return _parse(setting, [f"--{key}={value}"])


def _parse(setting: Setting, argv: list[str]) -> Any:
    try:
        return getattr(strict_parser().parse_args(argv), setting.key)
    except ParserError:
        setting.refuse(expected(setting.key))
