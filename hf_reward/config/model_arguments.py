"""Which model a run starts from, in which number format, and whether it trains adapters."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from hf_reward.errors import ConfigurationError


Dtype = Literal["auto", "float32", "bfloat16", "float16"]

_ADAPTERS_ONLY = (
    *("lora_target_modules", "lora_target_parameters", "lora_modules_to_save", "use_rslora", "use_dora"),
    *("merge_adapter", "load_in_8bit", "load_in_4bit"),
)


@dataclass
class ModelArguments:
    """
    The model and tokenizer a run starts from, and its adapters.

    Parameters:
        model_name_or_path (`str`):
            Hub id or folder of the model.
        model_revision (`str`, *optional*):
            Branch, tag or commit of the model on the Hub.
        from_scratch (`bool`, *optional*, defaults to `False`):
            Whether to build the model from its `config.json` with random weights.
        tokenizer_name_or_path (`str`, *optional*):
            Hub id or folder of the tokenizer. `None` takes the model's.
        tokenizer_revision (`str`, *optional*):
            Branch, tag or commit of the tokenizer on the Hub. `None` takes `model_revision`.
        dtype (`str`, *optional*, defaults to `"float32"`):
            Number format of the weights: `"auto"` (as saved), `"float32"`, `"bfloat16"` or `"float16"`.
        attn_implementation (`str`, *optional*):
            Attention implementation of transformers. `None` lets it choose.
        num_labels (`int`, *optional*, defaults to `1`):
            Outputs of the score head; a reward model has one.
        use_peft (`bool`, *optional*, defaults to `False`):
            Whether to train LoRA adapters and the score head instead of all weights.
        lora_r (`int`, *optional*, defaults to `16`):
            Rank of the adapters.
        lora_alpha (`int`, *optional*, defaults to `32`):
            Scale of the adapters; their output is multiplied by `lora_alpha / lora_r`.
        lora_dropout (`float`, *optional*, defaults to `0.05`):
            Dropout probability inside the adapters.
        lora_target_modules (`list[str]`, *optional*):
            Names of the modules that get adapters. `None` lets peft choose for the architecture.
        lora_modules_to_save (`list[str]`, *optional*):
            Names of modules to train in full and save, beside the score head, which always is.
        use_rslora (`bool`, *optional*, defaults to `False`):
            Whether to scale by `lora_alpha / sqrt(lora_r)`.
        use_dora (`bool`, *optional*, defaults to `False`):
            Whether to use DoRA, which learns magnitude and direction apart.
        lora_target_parameters (`list[str]`, *optional*):
            Names of parameters that get adapters, such as the experts of a mixture: `mlp.experts.gate_up_proj`. The
            dropout of the adapters is 0 then.
        merge_adapter (`bool`, *optional*, defaults to `False`):
            Whether to save a plain model at the end, with the adapter merged into it; the adapter itself is kept in
            the folder `adapter`.
        load_in_8bit (`bool`, *optional*, defaults to `False`):
            Whether to hold the base model in 8 bits under the adapters (needs bitsandbytes).
        load_in_4bit (`bool`, *optional*, defaults to `False`):
            Whether to hold the base model in 4 bits under the adapters (needs bitsandbytes).
        bnb_4bit_quant_type (`str`, *optional*, defaults to `"nf4"`):
            Number format of the 4 bits, `"nf4"` or `"fp4"`.
        use_bnb_nested_quant (`bool`, *optional*, defaults to `False`):
            Whether to quantise the constants of the 4-bit format too.

    Raises:
        `ConfigurationError`: A value cannot work; the message names the parameter, the value and what is expected.
    """

    model_name_or_path: str = field(metadata={"help": "Hub id or folder of the model. Must be given."})
    model_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of the model on the Hub. Not set: its main branch."}
    )
    from_scratch: bool = field(
        default=False, metadata={"help": "Build the model from its config.json with random weights."}
    )
    tokenizer_name_or_path: str | None = field(
        default=None, metadata={"help": "Hub id or folder of the tokenizer. Not set: the model's."}
    )
    tokenizer_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of the tokenizer. Not set: as for the model."}
    )
    dtype: Dtype = field(
        default="float32",
        metadata={"help": "Number format of the weights: float32, bfloat16, float16, or auto (as saved)."},
    )
    attn_implementation: str | None = field(
        default=None,
        metadata={"help": "Attention: eager, sdpa, flash_attention_2, ... Not set: transformers chooses."},
    )
    num_labels: int = field(
        default=1, metadata={"help": "Outputs of the score head: a reward model has 1, others are refused."}
    )
    use_peft: bool = field(
        default=False, metadata={"help": "Train LoRA adapters and the score head instead of all weights."}
    )
    lora_r: int = field(default=16, metadata={"help": "Rank of the adapters."})
    lora_alpha: int = field(
        default=32, metadata={"help": "Scale of the adapters: their output is multiplied by lora_alpha / lora_r."}
    )
    lora_dropout: float = field(default=0.05, metadata={"help": "Dropout probability inside the adapters."})
    lora_target_modules: list[str] | None = field(
        default=None,
        metadata={"help": "Modules that get adapters, by name, or all-linear. Not set: peft's choice."},
    )
    lora_modules_to_save: list[str] | None = field(
        default=None,
        metadata={"help": "Modules to train in full and save, beside the score head, which always is."},
    )
    use_rslora: bool = field(
        default=False, metadata={"help": "Scale the adapters by lora_alpha / sqrt(lora_r) instead."}
    )
    use_dora: bool = field(default=False, metadata={"help": "Use DoRA, which learns magnitude and direction apart."})
    lora_target_parameters: list[str] | None = field(
        default=None,
        metadata={"help": "Parameters that get adapters, such as mlp.experts.gate_up_proj of a mixture of experts."},
    )
    merge_adapter: bool = field(
        default=False, metadata={"help": "End with a plain model, the adapter merged in; it is kept in adapter/."}
    )
    load_in_8bit: bool = field(
        default=False, metadata={"help": "Hold the base model in 8 bits under the adapters (bitsandbytes)."}
    )
    load_in_4bit: bool = field(
        default=False, metadata={"help": "Hold the base model in 4 bits under the adapters (bitsandbytes)."}
    )
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = field(
        default="nf4", metadata={"help": "Number format of load_in_4bit: nf4 or fp4."}
    )
    use_bnb_nested_quant: bool = field(
        default=False, metadata={"help": "Quantise the constants of the 4-bit format too."}
    )

    def __post_init__(self) -> None:
        if not self.model_name_or_path:
            raise ConfigurationError("`model_name_or_path`: found nothing; expected a Hub id or a folder")
        if self.num_labels != 1:
            raise ConfigurationError(
                f"`num_labels`: found {self.num_labels!r}; expected 1, because a reward model has one output"
            )
        if self.dtype not in get_args(Dtype):
            raise ConfigurationError(f"`dtype`: found {self.dtype!r}; expected one of {', '.join(get_args(Dtype))}")
        self._check_adapters()

    def _check_adapters(self) -> None:
        for name in ("lora_r", "lora_alpha"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ConfigurationError(f"`{name}`: found {value!r}; expected a whole number, 1 or more")
        if not 0 <= self.lora_dropout < 1:
            raise ConfigurationError(f"`lora_dropout`: found {self.lora_dropout!r}; expected 0 or more, below 1")
        for name in _ADAPTERS_ONLY:
            if getattr(self, name) and not self.use_peft:
                raise ConfigurationError(f"`{name}`: found it set without adapters; expected `use_peft: true` with it")
        if self.use_peft and self.from_scratch and not self.merge_adapter:
            raise ConfigurationError(
                "`from_scratch`: found it with `use_peft`, whose adapter could not be loaded again, because the "
                "random weights below it are not saved; expected `merge_adapter: true` with it"
            )
        self._check_quantization()

    def _check_quantization(self) -> None:
        if self.load_in_8bit and self.load_in_4bit:
            raise ConfigurationError("`load_in_4bit`: found it with `load_in_8bit`; expected one of them")
        if self.bnb_4bit_quant_type not in ("nf4", "fp4"):
            raise ConfigurationError(
                f"`bnb_4bit_quant_type`: found {self.bnb_4bit_quant_type!r}; expected one of nf4, fp4"
            )
        if self.use_bnb_nested_quant and not self.load_in_4bit:
            raise ConfigurationError("`use_bnb_nested_quant`: found it set; expected `load_in_4bit: true` with it")
        if self.from_scratch and (self.load_in_8bit or self.load_in_4bit):
            raise ConfigurationError("`from_scratch`: found it with quantisation; expected weights to quantise")
