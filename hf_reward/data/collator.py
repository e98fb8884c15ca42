"""From tokenised groups to one batch: token rows, and for every completion the place where its reward is read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_reward.errors import DataError


@dataclass
class PreferenceCollator:
    """
    Pad tokenised preference pairs (or larger ranked groups) into one batch for a single forward pass.

    Token rows stand rank by rank: the best completion of every group first, then all second ones, so for pairs row `i`
    and row `i + P` are the chosen and the rejected side of pair `i`. Rewards, in contrast, come out group by group, in
    the order of `reward_positions`. Padding goes on the right, so real tokens keep the positions they had alone.

    Args:
        pad_token_id (`int`):
            Id written into padding positions. Padding is recognised by `attention_mask`, never by this id.
        pad_to_multiple_of (`int`, *optional*):
            Round the padded length L up to a multiple of this number of tokens.

    Shape:
        With G groups, S sequences (S = 2G for pairs) and L the longest sequence, in tokens:

        - `input_ids`, `attention_mask` (`torch.long`): (S, L)
        - `reward_positions` (`torch.long`, places in the flattened (S * L) token grid, group after group): (S,)
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
    """

    pad_token_id: int
    pad_to_multiple_of: int | None = None

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Make one batch of tokenised rows."""
        if not rows:
            raise DataError("PreferenceCollator received no rows; the batch size must be at least 1.")
        groups = [_completions(row, number) for number, row in enumerate(rows)]
        ranked = sorted((rank, number) for number, group in enumerate(groups) for rank in range(len(group)))
        sequences = [groups[number][rank] for rank, number in ranked]
        input_ids, attention_mask = self._pad(sequences)
        row_of = {place: row for row, place in enumerate(ranked)}
        length = input_ids.shape[1]
        positions = [
            row_of[rank, number] * length + len(completion) - 1
            for number, group in enumerate(groups)
            for rank, completion in enumerate(group)
        ]
        batch = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "reward_positions": torch.tensor(positions),
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

    def _pad(self, sequences: list[Sequence[int]]) -> tuple[Tensor, Tensor]:
        lengths = torch.tensor([len(sequence) for sequence in sequences])
        multiple = self.pad_to_multiple_of or 1
        padded_length = -(-int(lengths.max()) // multiple) * multiple
        input_ids = torch.full((len(sequences), padded_length), self.pad_token_id, dtype=torch.long)
        for row, sequence in enumerate(sequences):
            input_ids[row, : len(sequence)] = torch.as_tensor(sequence)
        attention_mask = (torch.arange(padded_length) < lengths.unsqueeze(1)).long()
        return input_ids, attention_mask


def _completions(row: Mapping[str, Any], number: int) -> list[Sequence[int]]:
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
