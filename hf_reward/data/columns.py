"""The columns of a tokenised dataset: those of training, and those that only filters and report need."""

from collections.abc import Iterable
from typing import Any

from datasets import Features, Sequence, Value


PREPARED_COLUMNS = ("prompt_length", "length", "prompt_key")
NOTES = (
    "special_tokens_in_content",
    "bos_deduplicated",
    "template_differs",
    "prompt_not_prefix",
    "prompt_truncated",
    "negative_margin",
    "completions_left_out",
)
# Columns that serve the filters and the report, and go before training.
ACCOUNTING = {
    "source_row": "int64",
    "shared_prefix_length": "int32",
    "chosen_length": "int32",
    "rejected_length": "int32",
    "group_tokens": "int32",
    "group_size": "int32",
    "order_key": "int64",
    "set_key": "int64",
    "notes": "int32",
    "drop_reason": "string",
}
ACCOUNTING_COLUMNS = tuple(ACCOUNTING)
EXTRA_TYPES = {
    "margin": Value("float32"),
    "weight": Value("float32"),
    "chosen_probability": Value("float32"),
    "tie": Value("bool"),
    "scores": Sequence(Value("float32")),
    # The name of a part of the data, by which evaluation counts apart.
    "subset": Value("string"),
}
# Columns from which a trainer learns, as we and as TRL name them, and those that only go along with them.
LEARNED_FROM = (
    *("chosen_input_ids", "rejected_input_ids", "completion_input_ids", "chosen_ids", "rejected_ids"),
    *(column for column in EXTRA_TYPES if column != "subset"),
)
GOING_ALONG = ("prompt_length", "length", "subset")
# What a row without a value counts as; `scores` has no neutral value and stays empty.
NEUTRAL: dict[str, Any] = {
    "margin": 0.0,
    "weight": 1.0,
    "chosen_probability": 1.0,
    "tie": False,
    "scores": None,
    "subset": "",
}


def make_features(groups: bool, extra: Iterable[str]) -> Features:
    """
    Columns and types of tokenised rows.

    Args:
        groups (`bool`): Rows can be larger groups than pairs.
        extra (`Iterable[str]`): The optional columns, keys of `EXTRA_TYPES`.

    Examples:

    >>> sorted(set(make_features(False, ["margin"])) - set(ACCOUNTING_COLUMNS) - set(PREPARED_COLUMNS))
    ['chosen_input_ids', 'margin', 'rejected_input_ids']
    """
    ids = Sequence(Value("int32"))
    sides = {"completion_input_ids": Sequence(ids)} if groups else {"chosen_input_ids": ids, "rejected_input_ids": ids}
    numbers = {"prompt_length": "int32", "length": "int32", "prompt_key": "int64", **ACCOUNTING}
    types = {column: Value(kind) for column, kind in numbers.items()}
    return Features({**sides, **types, **{column: EXTRA_TYPES[column] for column in extra}})
