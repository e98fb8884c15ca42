"""Low-rank adapters on a reward model: the score head always trains, in float32, and is always saved."""

import json
import logging
import re
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftConfig, PeftModel, TaskType, get_peft_model
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers import PreTrainedModel

from hf_reward.config import ModelArguments
from hf_reward.errors import ConfigurationError
from hf_reward.modeling.score_head import head_module, keep_head_in_float32, reads_last_token


logger = logging.getLogger(__name__)

# A folder of the Hub's cache, which says the id that it was downloaded from.
_HUB_CACHE = re.compile(r"models--(?P<account>[^/]+?)--(?P<name>[^/]+)/snapshots/")


def base_model(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """The sequence classifier itself, out of the adapter that may be around it."""
    if isinstance(model, PeftModel):
        return model.get_base_model()  # type: ignore[return-value]  # peft says `Module`, of whatever it was given
    return model


def add_adapter(model: PreTrainedModel | PeftModel, peft_config: PeftConfig, **kwargs: Any) -> PeftModel:
    """
    Wrap a reward model into an adapter whose task is sequence classification and whose head trains.

    A config without a task type, or with another one, is repaired: PEFT would leave the random head frozen and out of
    the saved adapter. The head itself never gets a low-rank update in place of its own weights, whatever
    `target_modules` says.

    Raises:
        `ConfigurationError`: The model is an adapter already, the config names modules that it does not have, or the
        head would not train.
    """
    if isinstance(model, PeftModel):
        raise ConfigurationError(
            "Both a PeftModel and a `peft_config` were given. Pass the plain model with the config, or the PeftModel."
        )
    if peft_config.task_type != TaskType.SEQ_CLS:
        logger.warning("adapter: task type %s is set to SEQ_CLS, so that the score head trains", peft_config.task_type)
        peft_config.task_type = TaskType.SEQ_CLS
    if isinstance(peft_config, LoraConfig):
        # PEFT puts no low-rank update into modules that are saved whole.
        peft_config.modules_to_save = sorted({*_existing(peft_config.modules_to_save, model), *_trained_whole(model)})
    targets = getattr(peft_config, "target_modules", None)
    try:
        wrapped: PeftModel = get_peft_model(model, peft_config, **kwargs)
    except ValueError as error:
        found = sorted(targets) if isinstance(targets, set) else targets
        raise ConfigurationError(
            f"The adapter does not fit a {type(model).__name__}: `target_modules`: found {found!r}. {error}"
        ) from error
    keep_head_in_float32(base_model(wrapped))
    check_head_trains(wrapped)
    return wrapped


def lora_config(arguments: ModelArguments) -> LoraConfig | None:
    """The LoRA config that the model arguments describe, or `None` without `use_peft`."""
    if not arguments.use_peft:
        return None
    dropout = arguments.lora_dropout
    if arguments.lora_target_parameters and dropout:
        logger.info("adapter: lora_dropout is 0 instead of %s, because of lora_target_parameters", dropout)
        dropout = 0.0
    modules = arguments.lora_target_modules
    return LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=arguments.lora_r,
        lora_alpha=arguments.lora_alpha,
        lora_dropout=dropout,
        target_modules="all-linear" if modules == ["all-linear"] else modules,
        target_parameters=arguments.lora_target_parameters,
        modules_to_save=arguments.lora_modules_to_save,
        use_rslora=arguments.use_rslora,
        use_dora=arguments.use_dora,
    )


def check_head_trains(model: PreTrainedModel | PeftModel) -> None:
    """
    Assert, before training, that every parameter of the active score head trains, and that an adapter saves it.

    Raises:
        `ConfigurationError`: It does not; a reward model with a frozen random head learns nothing of use, and one
        whose head is not saved gives other rewards after loading.
    """
    frozen = [name for name, parameter in head_parameters(model).items() if not parameter.requires_grad]
    if frozen:
        raise ConfigurationError(
            f"The score head does not train ({', '.join(frozen)} is frozen). For an adapter, give PEFT the task type "
            "SEQ_CLS, or name the head in `modules_to_save` (and load it with `is_trainable=True`); for a plain "
            "model, set `requires_grad` of its head."
        )
    if isinstance(model, PeftModel) and not isinstance(head_module(base_model(model)), ModulesToSaveWrapper):
        raise ConfigurationError(
            "The score head would train but not be saved with the adapter. Give PEFT the task type SEQ_CLS, or name "
            "the head in `modules_to_save`, instead of setting `requires_grad` by hand."
        )


def head_parameters(model: PreTrainedModel | PeftModel) -> dict[str, nn.Parameter]:
    """Parameters of the score head that is in use: the copy that trains when PEFT keeps an original beside it."""
    return {
        name: parameter
        for name, parameter in head_module(base_model(model)).named_parameters()
        if not name.startswith("original_module.")
    }


def save_model(model: PreTrainedModel | PeftModel, folder: str | Path, **kwargs: Any) -> None:
    """
    Save a model, or an adapter without a path of this machine in it.

    `adapter_config.json` names the base model by its Hub id, by its path below the working directory, or by the name
    of its folder; see [`find_base_model`]. PEFT's own card is not written.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]): What to save.
        folder (`str` or `Path`): Where to.
        kwargs: Passed on to `save_pretrained`.
    """
    if not isinstance(model, PeftModel):
        model.save_pretrained(folder, **kwargs)
        return
    card = Path(folder) / "README.md"
    before = card.read_bytes() if card.is_file() else None
    grown = getattr(base_model(model), "embedding_has_grown", False)
    model.save_pretrained(str(folder), save_embedding_layers=True if grown else "auto", **kwargs)
    if not kwargs.get("is_main_process", True):
        return
    if before is not None:
        card.write_bytes(before)
    else:
        card.unlink(missing_ok=True)
    for path in Path(folder).rglob("adapter_config.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = public_base(config["base_model_name_or_path"])
        path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def public_base(name: str | None) -> str | None:
    """
    How an adapter names its base model: a Hub id, a path below the working directory, or the name of a folder.

    Examples:

    >>> public_base("Qwen/Qwen3-0.6B")
    'Qwen/Qwen3-0.6B'
    >>> public_base("/tmp")
    'tmp'
    """
    if not name or not Path(name).exists():
        return name
    path = Path(name).absolute()
    cached = _HUB_CACHE.search(f"{path.as_posix()}/")
    if cached:
        return f"{cached['account']}/{cached['name']}"
    here = Path.cwd()
    return path.relative_to(here).as_posix() if here in path.parents else path.resolve().name


def find_base_model(name: str | None, adapter: str | Path) -> str:
    """
    The folder or Hub id of the base model that an adapter names.

    A relative path is looked for from the working directory, and then from the adapter's folder upwards.

    Raises:
        `ConfigurationError`: The adapter names none.
    """
    if not name:
        raise ConfigurationError(
            f"The adapter in {str(adapter)!r} does not say which model it belongs to; name it by `base_model`."
        )
    for place in (Path.cwd(), *Path(adapter).absolute().parents[:4]):
        if (place / name / "config.json").is_file():
            return str(place / name)
    return name


def _existing(names: list[str] | None, model: PreTrainedModel) -> set[str]:
    """The modules to save that the model has. `lm_head`, which TRL adds to every config, is none of a classifier's."""
    have = [name for name, _ in model.named_modules()]
    missing = {name for name in names or [] if not any(f".{module}".endswith(f".{name}") for module in have)}
    if missing - {"lm_head"}:
        raise ConfigurationError(
            f"`modules_to_save`: found {', '.join(sorted(missing - {'lm_head'}))}, which {type(model).__name__} does "
            f"not have; expected names such as {', '.join(name for name in have[1:4])}"
        )
    if missing:
        logger.warning("adapter: lm_head is no module of a %s and is not saved", type(model).__name__)
    return set(names or []) - missing


def _trained_whole(model: PreTrainedModel) -> set[str]:
    """Names of the modules that train and are saved as they are: the head, and an encoder's pooling before it."""
    head = head_module(model)
    names = {name for name, module in model.named_children() if module is head}
    if not reads_last_token(model):
        last_names = {name.rpartition(".")[2] for name, module in model.named_modules() if list(module.parameters())}
        names |= last_names & {"pooler", "head"}
    return names
