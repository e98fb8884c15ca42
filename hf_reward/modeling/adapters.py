"""Low-rank adapters on a reward model: the score head always trains, in float32, and is always saved."""

import logging
from typing import Any

from peft import LoraConfig, PeftConfig, PeftModel, TaskType, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from hf_reward.config import ModelArguments
from hf_reward.errors import ConfigurationError
from hf_reward.modeling.score_head import head_module, keep_head_in_float32, reads_last_token


logger = logging.getLogger(__name__)


def base_model(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """The sequence classifier itself, out of the adapter that may be around it."""
    if isinstance(model, PeftModel):
        return model.get_base_model()  # type: ignore[return-value]  # peft says `Module`, of whatever it was given
    return model


def add_adapter(model: PreTrainedModel | PeftModel, peft_config: PeftConfig, **kwargs: Any) -> PeftModel:
    """
    Wrap a reward model into an adapter whose task is sequence classification and whose head trains.

    A config without a task type, or with another one, is repaired: PEFT would leave the random head frozen and out of
    the saved adapter. The head itself never gets a low-rank update in place of its own weights.

    Raises:
        `ConfigurationError`: The model is an adapter already, or the head would not train.
    """
    if isinstance(model, PeftModel):
        raise ConfigurationError(
            "Both a PeftModel and a `peft_config` were given. Pass the plain model with the config, or the PeftModel."
        )
    if peft_config.task_type != TaskType.SEQ_CLS:
        logger.warning("adapter: task type %s is set to SEQ_CLS, so that the score head trains", peft_config.task_type)
        peft_config.task_type = TaskType.SEQ_CLS
    if isinstance(peft_config, LoraConfig):
        peft_config.modules_to_save = sorted({*(peft_config.modules_to_save or []), *_trained_whole(model)})
    wrapped: PeftModel = get_peft_model(model, peft_config, **kwargs)
    keep_head_in_float32(base_model(wrapped))
    check_head_trains(wrapped)
    return wrapped


def lora_config(arguments: ModelArguments) -> LoraConfig | None:
    """The LoRA config that the model arguments describe, or `None` without `use_peft`."""
    if not arguments.use_peft:
        return None
    return LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=arguments.lora_r,
        lora_alpha=arguments.lora_alpha,
        lora_dropout=arguments.lora_dropout,
        target_modules=arguments.lora_target_modules,
        modules_to_save=arguments.lora_modules_to_save,
        use_rslora=arguments.use_rslora,
        use_dora=arguments.use_dora,
    )


def check_head_trains(model: PreTrainedModel | PeftModel) -> None:
    """
    Assert, before training, that every parameter of the active score head trains.

    Raises:
        `ConfigurationError`: It does not; a reward model with a frozen random head learns nothing of use.
    """
    frozen = [name for name, parameter in head_parameters(model).items() if not parameter.requires_grad]
    if frozen:
        raise ConfigurationError(
            f"The score head does not train ({', '.join(frozen)} is frozen). For an adapter, give PEFT the task type "
            "SEQ_CLS, or name the head in `modules_to_save`; for a plain model, set `requires_grad` of its head."
        )


def head_parameters(model: PreTrainedModel | PeftModel) -> dict[str, nn.Parameter]:
    """Parameters of the score head that is in use: the copy that trains when PEFT keeps an original beside it."""
    return {
        name: parameter
        for name, parameter in head_module(base_model(model)).named_parameters()
        if not name.startswith("original_module.")
    }


def _trained_whole(model: PreTrainedModel) -> set[str]:
    """Names of the modules that train and are saved as they are: the head, and an encoder's pooling before it."""
    head = head_module(model)
    names = {name for name, module in model.named_children() if module is head}
    if not reads_last_token(model):
        last_names = {name.rpartition(".")[2] for name, module in model.named_modules() if list(module.parameters())}
        names |= last_names & {"pooler", "head"}
    return names
