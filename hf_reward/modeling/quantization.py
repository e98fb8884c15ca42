"""Base models in 4 or 8 bits under adapters (QLoRA), by bitsandbytes; the score head is never quantised."""

from importlib.util import find_spec

import torch
from transformers import BitsAndBytesConfig

from hf_reward.config import ModelArguments
from hf_reward.errors import ConfigurationError
from hf_reward.modeling.score_head import HEAD_NAMES


def quantization_config(arguments: ModelArguments) -> BitsAndBytesConfig | None:
    """
    The quantisation that the model arguments describe, or `None`.

    Raises:
        `ConfigurationError`: bitsandbytes is not installed.

    References:
        Dettmers et al. (2023), arXiv:2305.14314, for QLoRA.
    """
    if not (arguments.load_in_4bit or arguments.load_in_8bit):
        return None
    if find_spec("bitsandbytes") is None:
        name = "load_in_4bit" if arguments.load_in_4bit else "load_in_8bit"
        raise ConfigurationError(
            f"`{name}`: found it set, but bitsandbytes is not installed; expected the extra `quantization` (`pip "
            "install bitsandbytes`), on a machine where it runs"
        )
    dtype = {"float16": torch.float16, "float32": torch.float32}.get(arguments.dtype, torch.bfloat16)
    return BitsAndBytesConfig(
        load_in_8bit=arguments.load_in_8bit,
        load_in_4bit=arguments.load_in_4bit,
        bnb_4bit_quant_type=arguments.bnb_4bit_quant_type,
        bnb_4bit_use_double_quant=arguments.use_bnb_nested_quant,
        bnb_4bit_compute_dtype=dtype,
        # The list is of both, 4 and 8 bits, despite its name.
        llm_int8_skip_modules=list(HEAD_NAMES),
    )
