"""How the completions of a batch lie in token rows: padded, packed, or behind a prompt that they share."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import torch


BatchLayout: TypeAlias = Literal["padded", "packed", "shared_prompt"]

TokenIds: TypeAlias = Sequence[int]
# Of every group the number of shared prompt tokens, and of each completion the number of tokens behind it.
GroupSpans: TypeAlias = tuple[tuple[int, tuple[int, ...]], ...]


def lay_out(groups: Sequence[Sequence[TokenIds]], layout: BatchLayout, pad_id: int, multiple: int) -> dict[str, Any]:
    """
    Put the completions of a batch into token rows.

    Args:
        groups: Of every group its completions, best first, each a whole sequence (prompt and completion) of token ids.
        layout (`str`): `"padded"`, `"packed"` or `"shared_prompt"`.
        pad_id (`int`): Id that fills padding.
        multiple (`int`): The padded length is a multiple of this, in tokens.

    Returns:
        `dict`: Part of a batch of [`PreferenceCollator`]; rewards come group after group.

    Examples:

    >>> group = [[[5, 6, 7], [5, 8]]]
    >>> lay_out(group, "shared_prompt", pad_id=0, multiple=1)["input_ids"].tolist()
    [[5, 6, 7, 8]]
    >>> lay_out(group, "packed", pad_id=0, multiple=1)["input_ids"].tolist()
    [[5, 6, 7, 5, 8]]
    >>> lay_out(group, "padded", pad_id=0, multiple=1)["input_ids"].tolist()
    [[5, 6, 7], [5, 8, 0]]
    """
    if layout == "padded":
        return _padded(groups, pad_id, multiple)
    shared = [shared_prompt_length(group) if layout == "shared_prompt" else 0 for group in groups]
    return _one_row(groups, shared)


def shared_prompt_length(group: Sequence[TokenIds]) -> int:
    """
    Number of tokens with which all completions of a group start.

    Examples:

    >>> shared_prompt_length([[5, 6, 7], [5, 6], [5, 6, 8]])
    2
    """
    first = np.asarray(group[0])
    length = len(first)
    for other in group[1:]:
        length = min(length, len(other))
        differs = first[:length] != np.asarray(other[:length])
        length = int(differs.argmax()) if differs.any() else length
    return length


def laid_out_tokens(lengths: Sequence[int], shared: int, layout: BatchLayout) -> int:
    """
    Tokens that a group takes in a batch; for the padded layout those of its longest completion, once for each.

    Args:
        lengths: Tokens of every completion, prompt included.
        shared (`int`): Tokens with which all of them start.
        layout (`str`): The layout.

    Examples:

    >>> [laid_out_tokens([5, 3], 2, layout) for layout in ("padded", "packed", "shared_prompt")]
    [10, 8, 6]
    """
    if layout == "padded":
        return max(lengths) * len(lengths)
    return sum(lengths) - (shared * (len(lengths) - 1) if layout == "shared_prompt" else 0)


def best_completions(batch: Mapping[str, Any]) -> list[list[int]]:
    """Token ids of the best completion of every group of a batch, its prompt included, out of whatever layout."""
    found = []
    ids, first = batch["input_ids"], 0
    if "group_spans" in batch:
        for prompt, sizes in batch["group_spans"]:
            found.append(ids[0, first : first + prompt + sizes[0]].tolist())
            first += prompt + sum(sizes)
        return found
    for size in batch["group_sizes"]:
        row = int(batch["reward_positions"][first]) // ids.shape[1]
        found.append(ids[row][batch["attention_mask"][row].bool()].tolist())
        first += size
    return found


def _padded(groups: Sequence[Sequence[TokenIds]], pad_id: int, multiple: int) -> dict[str, Any]:
    """One row for each completion, rank by rank: all best ones first, as in TRL."""
    ranked = sorted((rank, number) for number, group in enumerate(groups) for rank in range(len(group)))
    sequences = [groups[number][rank] for rank, number in ranked]
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    length = -(-int(lengths.max()) // multiple) * multiple
    input_ids = torch.full((len(sequences), length), pad_id, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        input_ids[row, : len(sequence)] = torch.as_tensor(sequence)
    row_of = {place: row for row, place in enumerate(ranked)}
    positions = [
        row_of[rank, number] * length + len(completion) - 1
        for number, group in enumerate(groups)
        for rank, completion in enumerate(group)
    ]
    return {
        "input_ids": input_ids,
        "attention_mask": (torch.arange(length) < lengths.unsqueeze(1)).long(),
        "reward_positions": torch.tensor(positions),
    }


def _one_row(groups: Sequence[Sequence[TokenIds]], shared: Sequence[int]) -> dict[str, Any]:
    """
    All groups one after another in a single row, [prompt | completion 1 | ... | completion k], without padding.

    The position ids of every completion go on behind its prompt. A completion that ends with the prompt has its reward
    read there.
    """
    tokens: list[torch.Tensor] = []
    position_ids: list[torch.Tensor] = []
    rewards_at: list[int] = []
    spans = []
    start = 0
    for group, prompt in zip(groups, shared, strict=True):
        end = start + prompt
        pieces = [group[0], *(completion[prompt:] for completion in group[1:])]
        for rank, piece in enumerate(pieces):
            first = 0 if rank == 0 else prompt
            tokens.append(torch.as_tensor(piece, dtype=torch.long))
            position_ids.append(torch.arange(first, first + len(piece)))
        sizes = tuple(len(completion) - prompt for completion in group)
        for size in sizes:
            rewards_at.append((end if size else start + prompt) + size - 1)
            end += size
        spans.append((prompt, sizes))
        start = end
    return {
        "input_ids": torch.cat(tokens).unsqueeze(0),
        "position_ids": torch.cat(position_ids).unsqueeze(0),
        "reward_positions": torch.tensor(rewards_at),
        "group_spans": tuple(spans),
    }
