"""Where the groups of a row without padding lie, and what the attention of every layer derives from that once."""

import itertools
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from hf_reward.data.layouts import GroupSpans


class AttentionPlan:
    """
    Where the groups of one row begin and end, and what the attention of every layer derives from that once.

    Args:
        spans (`GroupSpans`): Of every group the tokens of the shared prompt, and of each completion behind it.
        device (`torch.device`): Where the row lies.

    Attributes:
        calls (`int`): How many layers have asked for attention by this plan.
        only_ends (`bool`): From here on, attention is needed at the ends of completions only.
    """

    def __init__(self, spans: GroupSpans, device: torch.device) -> None:
        self.spans = spans
        self.device = device
        self.calls = 0
        self.only_ends = False
        self._masks: dict[tuple[int, int, int | None], Tensor | None] = {}

    @cached_property
    def pieces(self) -> list[int]:
        """Lengths of what lies in the row one after another: of every group the prompt and all its completions."""
        return [length for prompt, completions in self.spans for length in (prompt, *completions)]

    @cached_property
    def heads_and_tails(self) -> list[int]:
        """The same, with every prompt and its first completion as one."""
        return [n for prompt, completions in self.spans for n in (prompt + completions[0], *completions[1:])]

    @cached_property
    def ends(self) -> Tensor:
        """Places in the row at which completions end, where rewards are read; none of them twice."""
        places, start = [], 0
        for prompt, completions in self.spans:
            end = start + prompt
            for length in completions:
                end += length
                places.append((end if length else start + prompt) - 1)
            start = end
        return torch.tensor(list(dict.fromkeys(places))).to(self.device, non_blocking=True)

    def mask(self, queries: int, keys: int, window: int | None) -> Tensor | None:
        """
        What to add to the scores of `queries` tokens that are the last of `keys` tokens: 0 or minus infinity.

        `None` stands for the plain causal mask of a square. With a `window`, a token sees that many, itself included.

        Shape:
            (queries, keys), float32.
        """
        if window is not None and keys <= window:
            window = None
        place = queries, keys, window
        if place not in self._masks:
            self._masks[place] = None if queries == keys and window is None else self._band(*place)
        return self._masks[place]

    def _band(self, queries: int, keys: int, window: int | None) -> Tensor:
        seen = torch.ones(queries, keys, dtype=torch.bool, device=self.device).tril(keys - queries)
        if window is not None:
            seen = seen.triu(keys - queries - window + 1)
        return torch.zeros(queries, keys, device=self.device).masked_fill(~seen, float("-inf"))

    @cached_property
    def varlen(self) -> dict[str, Any]:
        """Arguments of a variable-length kernel: every completion is a sequence whose keys begin with its prompt."""
        queries, keys, key_index = [0], [0], []
        start = 0
        for prompt, completions in self.spans:
            own = start + prompt
            for rank, length in enumerate(completions):
                first = prompt if rank == 0 else 0
                if first + length:
                    queries.append(queries[-1] + first + length)
                    keys.append(keys[-1] + prompt + length)
                    key_index += [torch.arange(start, start + prompt), torch.arange(own, own + length)]
                own += length
            start = own
        longest = [max(end - first for first, end in itertools.pairwise(ends)) for ends in (queries, keys)]
        tensors = [torch.tensor(ends, dtype=torch.int32) for ends in (queries, keys)]
        ends_on_device = [tensor.to(self.device, non_blocking=True) for tensor in tensors]
        index = torch.cat(key_index).to(self.device, non_blocking=True)
        return {"cu_seqlens": ends_on_device, "longest": longest, "key_index": index}

    @cached_property
    def _places(self) -> tuple[Tensor, Tensor, Tensor]:
        """Group, piece (0 for the prompt) and position of every token of the row; (T,) each."""
        groups = [g for g, (prompt, sizes) in enumerate(self.spans) for _ in range(prompt + sum(sizes))]
        pieces = [piece for prompt, sizes in self.spans for piece, n in enumerate((prompt, *sizes)) for _ in range(n)]
        positions = [
            first + i
            for prompt, sizes in self.spans
            for first, n in ((0, prompt), *((prompt, size) for size in sizes))
            for i in range(n)
        ]
        group, piece, position = (torch.tensor(values, device=self.device) for values in (groups, pieces, positions))
        return group, piece, position

    def block_mask(self, window: int | None) -> Any:
        """The same visibility as a `BlockMask` of flex attention."""
        from torch.nn.attention.flex_attention import create_block_mask

        group, piece, position = self._places

        def visible(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            distance = position[query] - position[key]
            seen = (group[query] == group[key]) & ((piece[key] == 0) | (piece[query] == piece[key])) & (distance >= 0)
            return seen if window is None else seen & (distance < window)

        length = len(group)
        return create_block_mask(visible, None, None, length, length, device=str(self.device))
