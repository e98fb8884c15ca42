"""What a run can be told beyond `transformers.TrainingArguments`, checked before anything is loaded."""

import math
import os
from dataclasses import MISSING, Field, dataclass, field, fields
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

import torch
from transformers import TrainingArguments

from hf_reward.config.processes import autocast_in_deepspeed, connect
from hf_reward.errors import ConfigurationError
from hf_reward.redaction import redact, without_secrets


FULL_LEARNING_RATE = 1e-5
LORA_LEARNING_RATE = 1e-4

_NUMBERS = (
    "learning_rate",
    "num_train_epochs",
    "warmup_steps",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "center_rewards_coefficient",
    "label_smoothing",
    "tie_threshold",
)
_REQUIRED_COUNTS = {
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "skip_non_finite_steps": 0,
    "eval_sample_pairs": 0,
}
BATCH_LAYOUTS = ("auto", "shared_prompt", "packed", "padded")
_OPTIONAL_COUNTS = {
    "max_length": 1,
    "max_prompt_length": 1,
    "pad_to_multiple_of": 1,
    "dataset_num_proc": 1,
    "num_evals": 0,
    "total_episodes": 1,
    "max_tokens_per_batch": 1,
}


# repr=False: a generated `__repr__` would replace the one of `TrainingArguments`, which hides `hub_token`.
@dataclass(repr=False)
class RewardConfig(TrainingArguments):
    r"""
    Configuration class for the [`RewardTrainer`].

    Only what reward training adds is listed here; every parameter of [`~transformers.TrainingArguments`] is accepted
    as well, and every name of `trl.RewardConfig`. Batch sizes count pairs, so a batch holds twice as many sequences.

    Parameters:
        > Parameters that control the model

        model_init_kwargs (`dict` or `str`, *optional*):
            Keyword arguments for `from_pretrained`, used where the trainer is given a model's name.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether Python code that comes with a checkpoint may run.
        chat_template_path (`str`, *optional*):
            Chat template to use: a Jinja file, a tokenizer's id or folder, or the name of a shipped template.
        disable_dropout (`bool`, *optional*, defaults to `True`):
            Whether to set every dropout probability to 0.
        score_head_init (`str`, *optional*, defaults to `"normal"`):
            How a fresh score head starts: `"normal"` draws from N(0, 1/(hidden_size + 1)), `"library"` keeps what
            transformers draws.

        > Parameters that control the data

        dataset_num_proc (`int`, *optional*):
            Number of processes that prepare the dataset.
        eos_token (`str`, *optional*):
            Token that ends a sequence. `None` keeps the tokenizer's.
        pad_token (`str`, *optional*):
            Token that fills a row. `None` keeps the tokenizer's, or picks one that differs from EOS.
        add_bos (`bool`, *optional*, defaults to `False`):
            Whether to put the BOS token in front of the chat template.
        max_length (`int`, *optional*, defaults to `1024`):
            Longest sequence, in tokens. A pair with a longer side is dropped and counted. `None` keeps all.
        max_prompt_length (`int`, *optional*):
            Longest prompt, in tokens. A pair with a longer prompt is dropped and counted. `None` keeps all.
        overlong (`str`, *optional*, defaults to `"drop"`):
            What happens to a longer pair: `"drop"`, or `"truncate_prompt"`, which takes the oldest turns (of text, the
            first tokens) off the prompt until the pair fits; system message and completions stay whole, and a pair
            that cannot fit is dropped.
        escape_special_tokens (`bool`, *optional*, defaults to `False`):
            Whether special tokens that stand in prompts and completions are read as ordinary text.
        pad_to_multiple_of (`int` or `str`, *optional*):
            Rounds the padded length up to a multiple of this, in tokens. `"auto"` is read as `None`.

        batch_layout (`str`, *optional*, defaults to `"auto"`):
            How completions lie in a batch: `"shared_prompt"` computes every prompt once and no padding, `"packed"`
            whole sequences without padding, `"padded"` one row for each completion. `"auto"` takes the fastest that
            gives the padded layout's rewards for this model and data, which is seen before training.
        max_tokens_per_batch (`int`, *optional*):
            Tokens of one batch on one process, as they are laid out, instead of `per_device_train_batch_size`.

        > Parameters that control the training

        loss_type (`str`, *optional*, defaults to `"bradley_terry"`):
            `"bradley_terry"` compares completions two by two, `"plackett_luce"` ranks the completions of a group as a
            whole, `"regression"` fits the `scores` of single completions.
        margin_mode (`str`, *optional*, defaults to `"subtract"`):
            What the `margin` column does: `"subtract"` asks for a difference of that many reward units, `"scale"`
            multiplies the loss of the pair.
        label_smoothing (`float`, *optional*, defaults to `0.0`):
            Probability that a pair is labelled the wrong way round, below 1/2.
        tie_threshold (`float`, *optional*):
            Threshold t above 1 of the Rao-Kupper model of ties. `None` takes a tie as a preference of 1/2.
        center_rewards_coefficient (`float`, *optional*):
            Weight of the squared sum of a pair's rewards, which pulls the mean reward to 0; `0.01` is usual.
        activation_offloading (`bool`, *optional*, defaults to `False`):
            Whether to hold activations in CPU memory between forward and backward. On a CPU they lie there anyway.
        skip_non_finite_steps (`int`, *optional*, defaults to `0`):
            Number of optimizer steps that are left out because their loss or gradient norm is NaN or infinite. The
            first one beyond it ends the run, before the weights are touched.
        total_episodes (`int`, *optional*):
            Number of pairs to train on in all, instead of `num_train_epochs`.
        num_evals (`int`, *optional*):
            Number of evaluations, spread evenly over the run. `0` runs none, `None` follows `eval_strategy`.
        eval_sample_pairs (`int`, *optional*, defaults to `0`):
            Number of best, of worst and of random pairs to show with their rewards after each evaluation.

    > [!NOTE]
    > These parameters have default values different from [`~transformers.TrainingArguments`]:
    > - `learning_rate`: `1e-5` instead of `5e-5` (the command takes `1e-4` with `use_peft`).
    > - `logging_steps`: `10` instead of `500`.
    > - `gradient_checkpointing`: on instead of off where rows are padded; off in the layouts without padding, which
    >   need less memory.
    > - `bf16`: on where the accelerator has bfloat16 and `fp16` is not asked for.
    > - `logging_nan_inf_filter`: `False` instead of `True`, so that a NaN shows in the log.

    Raises:
        `ConfigurationError`: A value cannot work; the message names the parameter, the value and what is expected.
    """

    # Not annotated as in transformers, because a `ClassVar` may not override it.
    _VALID_DICT_FIELDS = [*TrainingArguments._VALID_DICT_FIELDS, "model_init_kwargs"]  # noqa: RUF012

    if TYPE_CHECKING:
        # `TrainingArguments` fills it in where it is not given, so that it is a text after construction.
        output_dir: str = ""

    # Parameters of TrainingArguments with another default
    learning_rate: float = field(
        default=FULL_LEARNING_RATE,
        metadata={"help": "Peak learning rate of the optimizer. With use_peft the command's default is 1e-4."},
    )
    logging_steps: float = field(
        default=10,
        metadata={"help": "Optimizer steps between two log lines; below 1, a fraction of the run's steps."},
    )
    gradient_checkpointing: bool | None = field(
        default=None,
        metadata={
            "help": "Compute activations again in the backward pass instead of storing them: less memory, slower. "
            "Not set: on where rows are padded, off in the layouts without padding.",
            # A bare `--gradient_checkpointing` means true.
            "nargs": "?",
            "const": True,
        },
    )
    bf16: bool | None = field(  # type: ignore[assignment]  # None until this machine is looked at
        default=None,
        metadata={
            "help": "Train in bfloat16 mixed precision. Not set: on where the accelerator has it and fp16 is off.",
            # A bare `--bf16` means true, as for the other switches.
            "nargs": "?",
            "const": True,
        },
    )
    logging_nan_inf_filter: bool = field(
        default=False,
        metadata={"help": "Replace NaN and Inf losses in the log by the mean so far, which hides them."},
    )

    # Parameters that control the model
    model_init_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Keyword arguments for from_pretrained of the model, as a mapping or JSON."},
    )
    trust_remote_code: bool = field(
        default=False,
        metadata={"help": "Let Python code that comes with a checkpoint run. Only for code that was read."},
    )
    chat_template_path: str | None = field(
        default=None,
        metadata={
            "help": "Chat template: a Jinja file, a tokenizer's id or folder, or a shipped template's name. "
            "Not set: the tokenizer's own."
        },
    )
    disable_dropout: bool = field(default=True, metadata={"help": "Set every dropout probability to 0."})
    score_head_init: Literal["normal", "library"] = field(
        default="normal",
        metadata={
            "help": "How a fresh score head starts: normal draws with std 1/sqrt(hidden_size + 1), library keeps "
            "what transformers draws."
        },
    )

    # Parameters that control the data
    dataset_num_proc: int | None = field(
        default=None, metadata={"help": "Processes that prepare the dataset. Not set: one."}
    )
    eos_token: str | None = field(
        default=None, metadata={"help": "Token that ends a sequence. Not set: the tokenizer's own."}
    )
    pad_token: str | None = field(
        default=None,
        metadata={"help": "Token that fills a row. Not set: the tokenizer's, or one that differs from EOS."},
    )
    add_bos: bool = field(default=False, metadata={"help": "Put the BOS token in front of the chat template."})
    max_length: int | None = field(
        default=1024,
        metadata={"help": "Longest sequence, in tokens; a pair with a longer side is dropped. none: no limit."},
    )
    max_prompt_length: int | None = field(
        default=None,
        metadata={"help": "Longest prompt, in tokens; a pair with a longer prompt is dropped. none: no limit."},
    )
    overlong: Literal["drop", "truncate_prompt"] = field(
        default="drop",
        metadata={
            "help": "What happens to longer pairs: drop, or truncate_prompt (oldest turns go first; completions stay "
            "whole, and what cannot fit is dropped)."
        },
    )
    escape_special_tokens: bool = field(
        default=False, metadata={"help": "Read special tokens that stand in prompts and completions as ordinary text."}
    )
    # `str` is in the type because TRL's recipes say "auto"; after construction it is a number or None.
    pad_to_multiple_of: int | str | None = field(
        default=None, metadata={"help": "Round the padded length up to a multiple of this, in tokens."}
    )

    batch_layout: Literal["auto", "shared_prompt", "packed", "padded"] = field(
        default="auto",
        metadata={
            "help": "How completions lie in a batch: shared_prompt (every prompt computed once, no padding), packed "
            "(no padding), padded, or auto: the fastest that is exact for this model and data."
        },
    )
    max_tokens_per_batch: int | None = field(
        default=None,
        metadata={"help": "Tokens of one batch on one process, instead of per_device_train_batch_size."},
    )

    # Parameters that control the training
    loss_type: Literal["bradley_terry", "plackett_luce", "regression"] = field(
        default="bradley_terry",
        metadata={
            "help": "What is minimised: bradley_terry (pairs), plackett_luce (rankings) or regression (scores)."
        },
    )
    margin_mode: Literal["subtract", "scale"] = field(
        default="subtract",
        metadata={"help": "What the margin column does: subtract from the reward difference, or scale the loss."},
    )
    label_smoothing: float = field(
        default=0.0, metadata={"help": "Probability that a pair is labelled the wrong way round, below 0.5."}
    )
    tie_threshold: float | None = field(
        default=None,
        metadata={"help": "Threshold above 1 of the Rao-Kupper model of ties. Not set: a tie is a preference of 1/2."},
    )
    center_rewards_coefficient: float | None = field(
        default=None,
        metadata={"help": "Weight of the loss term that pulls the mean reward to 0; 0.01 is usual. Not set: off."},
    )
    activation_offloading: bool = field(
        default=False,
        metadata={"help": "Hold activations in CPU memory between forward and backward. Without effect on a CPU."},
    )
    skip_non_finite_steps: int = field(
        default=0,
        metadata={"help": "Steps with a NaN or Inf loss or gradient norm to leave out; one more ends the run."},
    )
    total_episodes: int | None = field(
        default=None, metadata={"help": "Pairs to train on in all, instead of num_train_epochs."}
    )
    num_evals: int | None = field(
        default=None,
        metadata={"help": "Evaluations, spread evenly over the run. 0: none. Not set: follow eval_strategy."},
    )
    eval_sample_pairs: int = field(
        default=0, metadata={"help": "Best, worst and random pairs to show after each evaluation; 0 shows none."}
    )

    def __post_init__(self) -> None:
        self._normalise()
        self._given = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != default_of(f)}
        self._given = without_secrets(self._given)
        self._check()
        self._follow_launcher()
        self._choose_precision()
        # A SIGTERM is always answered with a checkpoint; the library's handler would take the place of ours.
        self.enable_jit_checkpoint = False
        # transformers 5.23 renamed these two and warns of the old name, which TRL's recipes and our default use.
        # To go when TRL's RewardConfig says `activation_checkpointing`.
        for old in ("gradient_checkpointing", "gradient_checkpointing_kwargs"):
            new = old.replace("gradient", "activation")
            if getattr(self, new, MISSING) is None:
                setattr(self, new, getattr(self, old))
        # Until the layout of the batches is known; transformers reads `None` as off.
        self._checkpointing_is_open = self.activation_checkpointing is None
        connect(self)
        super().__post_init__()
        autocast_in_deepspeed(self)

    def checkpoint_activations(self, by_default: bool) -> bool:
        """Whether activations are computed again in the backward pass; `by_default` settles what was left open."""
        if self._checkpointing_is_open:
            self.gradient_checkpointing = self.activation_checkpointing = by_default
            self._checkpointing_is_open = False
        return bool(self.activation_checkpointing)

    def __getstate__(self) -> dict[str, Any]:
        # Whoever pickles the arguments never gets the token.
        return self.__dict__ | {"hub_token": None}

    def to_dict(self) -> dict[str, Any]:
        """As in [`~transformers.TrainingArguments`], which trackers are given, without any token."""
        return dict(without_secrets(super().to_dict()))

    def __str__(self) -> str:
        return redact(super().__str__())

    __repr__ = __str__

    def given(self) -> dict[str, Any]:
        """
        The parameters whose values differ from their defaults, as they were given: before this machine's device,
        precision and library versions filled in what was left open, and without `hub_token`.

        Returns:
            `dict[str, Any]`: Names and values.
        """
        return dict(self._given)

    def _normalise(self) -> None:
        for name in _NUMBERS:
            value = getattr(self, name)
            if isinstance(value, str):
                setattr(self, name, _to_number(name, value, float))
        multiple = self.pad_to_multiple_of
        if isinstance(multiple, str):
            nothing = multiple.lower() in ("auto", "none", "null")
            self.pad_to_multiple_of = None if nothing else int(_to_number("pad_to_multiple_of", multiple, int))

    def _check(self) -> None:
        for name, smallest in (_REQUIRED_COUNTS | _OPTIONAL_COUNTS).items():
            value = getattr(self, name)
            if value is None and name in _OPTIONAL_COUNTS:
                continue
            if not (_is_int(value) and value >= smallest):
                raise ConfigurationError(f"`{name}`: found {value!r}; expected a whole number, {smallest} or more")
        for name in _NUMBERS:
            value = getattr(self, name)
            if value is None and name in ("center_rewards_coefficient", "tie_threshold"):
                continue
            if not isinstance(value, Real) or isinstance(value, bool) or math.isnan(value):
                raise ConfigurationError(f"`{name}`: found {value!r}; expected a number")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ConfigurationError(f"`learning_rate`: found {self.learning_rate!r}; expected a number above 0")
        if not (_is_int(self.max_steps) and (self.max_steps == -1 or self.max_steps >= 1)):
            raise ConfigurationError(
                f"`max_steps`: found {self.max_steps!r}; expected a whole number of optimizer steps, 1 or more, "
                "or -1 to train for `num_train_epochs`"
            )
        if self.max_steps < 1 and not (math.isfinite(self.num_train_epochs) and self.num_train_epochs > 0):
            raise ConfigurationError(
                f"`num_train_epochs`: found {self.num_train_epochs!r}; expected a number above 0, or `max_steps` given"
            )
        coefficient = self.center_rewards_coefficient
        if coefficient is not None and not math.isfinite(coefficient):
            raise ConfigurationError(f"`center_rewards_coefficient`: found {coefficient!r}; expected a finite number")
        if self.overlong not in ("drop", "truncate_prompt"):
            raise ConfigurationError(f"`overlong`: found {self.overlong!r}; expected drop or truncate_prompt")
        if self.max_tokens_per_batch is not None and self.total_episodes is not None:
            raise ConfigurationError(
                "`total_episodes`: found it with `max_tokens_per_batch`, by which steps hold different numbers of "
                "pairs; expected `max_steps` or `num_train_epochs`"
            )
        if self.batch_layout not in BATCH_LAYOUTS:
            raise ConfigurationError(
                f"`batch_layout`: found {self.batch_layout!r}; expected one of {', '.join(BATCH_LAYOUTS)}"
            )
        if self.score_head_init not in ("normal", "library"):
            raise ConfigurationError(f"`score_head_init`: found {self.score_head_init!r}; expected normal or library")

        self._check_loss()

    def _check_loss(self) -> None:
        for name, choices in (
            ("loss_type", ("bradley_terry", "plackett_luce", "regression")),
            ("margin_mode", ("subtract", "scale")),
        ):
            if getattr(self, name) not in choices:
                raise ConfigurationError(f"`{name}`: found {getattr(self, name)!r}; expected {' or '.join(choices)}")
        if not 0 <= self.label_smoothing < 0.5:
            raise ConfigurationError(
                f"`label_smoothing`: found {self.label_smoothing!r}; expected a number of at least 0 and below 0.5"
            )
        if self.tie_threshold is not None and not (math.isfinite(self.tie_threshold) and self.tie_threshold > 1):
            raise ConfigurationError(f"`tie_threshold`: found {self.tie_threshold!r}; expected a number above 1")
        if self.label_smoothing_factor:
            raise ConfigurationError(
                f"`label_smoothing_factor`: found {self.label_smoothing_factor!r}, which smooths the classes of a "
                "classifier and does nothing here; for preference pairs say `label_smoothing`"
            )
        pairwise = {"margin_mode": "subtract", "label_smoothing": 0.0, "tie_threshold": None}
        for name, neutral in pairwise.items():
            if self.loss_type != "bradley_terry" and getattr(self, name) != neutral:
                raise ConfigurationError(
                    f"`{name}`: found {getattr(self, name)!r}, but `loss_type: {self.loss_type}` does not use it; "
                    "leave it out, or choose `loss_type: bradley_terry`"
                )
        if self.loss_type == "regression" and self.center_rewards_coefficient:
            raise ConfigurationError(
                f"`center_rewards_coefficient`: found {self.center_rewards_coefficient!r}, but the scores of "
                "`loss_type: regression` fix the level of the rewards; leave it out"
            )

    def _follow_launcher(self) -> None:
        """What `accelerate launch` was told about device and precision counts as if it were said here."""
        if os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1"):
            self.use_cpu = True
        asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        if asked not in ("bf16", "fp16"):
            return
        here = {name for name in ("bf16", "fp16") if getattr(self, name)}
        if here - {asked} or (asked == "bf16" and self.bf16 is False):
            raise ConfigurationError(
                f"`bf16`: found {self.bf16!r} with `fp16` {self.fp16!r}, but the launcher's `mixed_precision` is "
                f"{asked!r}; expected both to ask for the same"
            )
        setattr(self, asked, True)

    def _choose_precision(self) -> None:
        accelerator = torch.accelerator.is_available() and not self.use_cpu
        if self.fp16 and not accelerator:
            raise ConfigurationError(
                "`fp16`: found True, but this run has no accelerator; expected bf16, or neither (float32), on a CPU"
            )
        if self.bf16 is None:
            has_bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
            self.bf16 = accelerator and has_bf16 and not self.fp16
        elif (self.bf16 or self.bf16_full_eval) and not accelerator:
            # transformers refuses bf16 on a CPU unless the CPU is asked for by name.
            self.use_cpu = True


def default_of(parameter: Field[Any]) -> Any:
    """
    The default of a dataclass field, made afresh where it has a factory; `dataclasses.MISSING` where it must be given.

    Args:
        parameter (`dataclasses.Field`):
            The field.

    Returns:
        `Any`: The default.
    """
    return parameter.default if parameter.default_factory is MISSING else parameter.default_factory()


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _to_number(name: str, text: str, kind: type[int] | type[float]) -> float:
    try:
        return kind(text)
    except ValueError:
        expected = "a whole number" if kind is int else "a number"
        raise ConfigurationError(f"`{name}`: found {text!r}; expected {expected}") from None
