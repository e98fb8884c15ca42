"""From tokenised groups to one batch: token rows, and for every completion the place where its reward is read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_reward.data.layouts import BatchLayout, lay_out
from hf_reward.errors import DataError


@dataclass
class PreferenceCollator:
    """
    Lay tokenised preference pairs (or larger ranked groups) out as one batch for a single forward pass.

    In the `padded` layout token rows stand rank by rank: the best completion of every group first, then all second
    ones, so for pairs row `i` and row `i + P` are the chosen and the rejected side of pair `i`; padding goes on the
    right. In the other two, everything lies in one row without padding: whole sequences one after another (`packed`),
    or group after group the prompt once and the completions behind it (`shared_prompt`). In all of them real tokens
    keep the positions they had alone, and rewards come out group by group, in the order of `reward_positions`.

    Args:
        pad_token_id (`int`):
            Id written into padding positions. Padding is recognised by `attention_mask`, never by this id.
        pad_to_multiple_of (`int`, *optional*):
            Round the padded length L up to a multiple of this number of tokens.
        layout (`str`, *optional*, defaults to `"padded"`):
            `"padded"`, `"packed"` or `"shared_prompt"`. It may be changed between two iterations of a data loader.

    Shape:
        With G groups, S sequences (S = 2G for pairs), L the longest sequence and T the tokens of the one row:

        - `input_ids` (`torch.long`): (S, L), or (1, T)
        - `attention_mask` (`torch.long`, only if padded): (S, L)
        - `position_ids` (`torch.long`, unless padded): (1, T)
        - `group_spans` (tuples of `int`, unless padded: the length of the shared prompt, and of every completion
          behind it): G entries
        - `reward_positions` (`torch.long`, places in the flattened token grid, group after group): (S,)
        - `group_sizes` (a tuple of `int`, read on the host without waiting for the device): G entries
        - `group_tokens` (`torch.long`, real tokens of each group): (G,)
        - `completion_tokens` (`torch.long`, tokens after the prompt, only if `prompt_length` is known): (S,)
        - `subset` (a tuple of `str`, only if a row names one): G entries
        - `weight` (`torch.float32`, 1 where the data has none): (G,)
        - `margin` (`torch.float32`, in reward units, only if the pairs carry one): (G,)
        - `chosen_probability` (`torch.float32`), `tie` (`torch.bool`), only if the pairs carry them: (G,)
        - `scores` (`torch.float32`, in the order of `reward_positions`, only if the groups carry them): (S,)

    Raises:
        `DataError`: There is no row, a sequence has no token, a group has fewer than two completions, or only some
        rows carry one of the optional columns.

    Examples:

    >>> collate = PreferenceCollator(pad_token_id=0)
    >>> batch = collate([
    ...     {"chosen_input_ids": [5, 6, 7], "rejected_input_ids": [5, 8]},
    ...     {"chosen_input_ids": [5, 9], "rejected_input_ids": [5]},
    ... ])
    >>> batch["input_ids"].tolist()
    [[5, 6, 7], [5, 9, 0], [5, 8, 0], [5, 0, 0]]
    >>> batch["attention_mask"].sum(dim=1).tolist()
    [3, 2, 2, 1]
    >>> batch["reward_positions"].tolist(), batch["group_sizes"]
    ([2, 7, 4, 9], (2, 2))

    The same two pairs without padding, each prompt once:

    >>> collate.layout = "shared_prompt"
    >>> batch = collate([
    ...     {"chosen_input_ids": [5, 6, 7], "rejected_input_ids": [5, 8]},
    ...     {"chosen_input_ids": [5, 9], "rejected_input_ids": [5]},
    ... ])
    >>> batch["input_ids"].tolist(), batch["position_ids"].tolist()
    ([[5, 6, 7, 8, 5, 9]], [[0, 1, 2, 1, 0, 1]])
    >>> batch["reward_positions"].tolist(), batch["group_spans"]
    ([2, 3, 5, 4], ((1, (2, 1)), (1, (1, 0))))
    """

    pad_token_id: int
    pad_to_multiple_of: int | None = None
    layout: BatchLayout = "padded"

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Make one batch of tokenised rows."""
        if not rows:
            raise DataError("PreferenceCollator received no rows; the batch size must be at least 1.")
        groups = [completions_of(row, number) for number, row in enumerate(rows)]
        batch = {
            **lay_out(groups, self.layout, self.pad_token_id, self.pad_to_multiple_of or 1),
            "group_sizes": tuple(len(group) for group in groups),
            "group_tokens": torch.tensor([sum(map(len, group)) for group in groups]),
            "weight": torch.tensor([_number(row, "weight", 1.0) for row in rows], dtype=torch.float32),
        }
        if all(row.get("prompt_length") is not None for row in rows):
            batch["completion_tokens"] = torch.tensor(
                [len(side) - row["prompt_length"] for row, group in zip(rows, groups, strict=True) for side in group]
            )
        if any(row.get("subset") for row in rows):
            batch["subset"] = tuple(row.get("subset") or "" for row in rows)
        return batch | _optional(rows, [len(group) for group in groups])


def completions_of(row: Mapping[str, Any], number: int = 0) -> list[Sequence[int]]:
    """
    Token ids of every completion of a tokenised row, best first; each with the prompt in front of it.

    Raises:
        `DataError`: The row has no such columns, fewer than two completions, or one without tokens.
    """
    if "completion_input_ids" in row:
        group = list(row["completion_input_ids"])
    else:
        sides = [("chosen_input_ids", "chosen_ids"), ("rejected_input_ids", "rejected_ids")]
        group = [next((row[name] for name in names if name in row), None) for names in sides]
        if None in group:
            raise DataError(
                f"Row {number} of the batch has the columns {sorted(row)}; expected `chosen_input_ids` and "
                "`rejected_input_ids` (or `completion_input_ids`). Tokenise the dataset first."
            )
    if len(group) < 2:
        raise DataError(f"Row {number} of the batch has {len(group)} completion(s); a preference needs at least two.")
    if any(len(sequence) == 0 for sequence in group):
        raise DataError(f"Row {number} of the batch has a completion with no tokens.")
    return group


def _optional(rows: Sequence[Mapping[str, Any]], group_sizes: list[int]) -> dict[str, Tensor]:
    """The optional columns as tensors; a column that some rows carry must be carried by all."""
    found = {}
    for name, dtype in (("margin", torch.float32), ("chosen_probability", torch.float32), ("tie", torch.bool)):
        if _carried(rows, name):
            found[name] = torch.tensor([row[name] for row in rows], dtype=dtype)
    if _carried(rows, "scores"):
        for number, (row, size) in enumerate(zip(rows, group_sizes, strict=True)):
            if len(row["scores"]) != size:
                raise DataError(
                    f"Row {number} of the batch has {len(row['scores'])} `scores` for {size} completions; give one "
                    "each."
                )
        found["scores"] = torch.tensor([score for row in rows for score in row["scores"]], dtype=torch.float32)
    return found


def _carried(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    count = sum(row.get(name) is not None for row in rows)
    if count not in (0, len(rows)):
        raise DataError(f"{count} of {len(rows)} rows carry `{name}`; give it to all rows or to none.")
    return count > 0


def _number(row: Mapping[str, Any], name: str, default: float) -> float:
    value = row.get(name)
    return default if value is None else float(value)
