"""Evaluated pairs one by one, collected on the device and brought together from all processes at the end."""

from collections.abc import Sequence

import torch
from accelerate.utils import gather_object
from torch import Tensor

from hf_reward.metrics.diagnostics import diagnostics


class PairRecords:
    """
    Rewards, lengths and subsets of evaluated pairs, for what cannot be computed from sums.

    `add` neither synchronises the device nor talks to other processes. Pairs that do not count (rows that were
    repeated only to even out processes, ties in the data) are left out when the records are read.

    Examples:

    >>> import torch
    >>> records = PairRecords()
    >>> records.add(torch.tensor([2.0, 9.0]), torch.tensor([1.0, 0.0]), counted=torch.tensor([True, False]))
    >>> records.compute()["reward_margin_p50"]
    1.0
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything that was added."""
        self._batches: list[Tensor] = []
        self._subsets: list[str] = []
        self._has_tokens = self._has_subsets = False

    def add(
        self,
        chosen_rewards: Tensor,
        rejected_rewards: Tensor,
        counted: Tensor,
        chosen_tokens: Tensor | None = None,
        rejected_tokens: Tensor | None = None,
        subsets: Sequence[str | None] | None = None,
    ) -> None:
        """
        Add one batch.

        Args:
            chosen_rewards, rejected_rewards (`torch.Tensor`): Rewards of the two sides, in reward units.
            counted (`torch.Tensor`): True where a pair counts.
            chosen_tokens, rejected_tokens (`torch.Tensor`, *optional*): Lengths of the completions, in tokens.
            subsets (`Sequence[str]`, *optional*): The subset of each pair; `None` or empty for none.

        Shape:
            With P pairs, all arguments are (P,).
        """
        dtype = torch.float32 if chosen_rewards.device.type == "mps" else torch.float64
        nothing = torch.zeros_like(chosen_rewards)
        columns = (
            *(chosen_rewards, rejected_rewards, counted),
            *(nothing if tokens is None else tokens for tokens in (chosen_tokens, rejected_tokens)),
        )
        self._batches.append(torch.stack([column.detach().to(dtype) for column in columns], dim=1))
        self._subsets += ["" if name is None else str(name) for name in subsets or [""] * len(chosen_rewards)]
        self._has_tokens |= chosen_tokens is not None
        self._has_subsets |= subsets is not None

    def compute(self) -> dict[str, float]:
        """Diagnostics over the pairs of all processes, which must all come here together."""
        own = torch.cat(self._batches).cpu().tolist() if self._batches else []
        # Objects and not tensors, because processes may hold different numbers of pairs.
        parts = gather_object([(own, self._subsets, self._has_tokens, self._has_subsets)])
        rows = [(row, name) for part, names, _, _ in parts for row, name in zip(part, names, strict=True) if row[2]]
        if not rows:
            return {}
        chosen, rejected, _, chosen_tokens, rejected_tokens = torch.tensor(
            [row for row, _ in rows], dtype=torch.float64
        ).T.numpy()
        has_tokens, has_subsets = (any(part[place] for part in parts) for place in (2, 3))
        return diagnostics(
            chosen,
            rejected,
            chosen_tokens if has_tokens else None,
            rejected_tokens if has_tokens else None,
            [name for _, name in rows] if has_subsets else None,
        )
