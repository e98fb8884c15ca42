"""Accuracy, margin and reward statistics of preference pairs, exact for any batch size and number of processes."""

from collections.abc import Callable

import torch
from torch import Tensor


NAMES = (
    "pairs",  # pairs that count and of which one side is preferred, each once
    "undecided",  # pairs that count and are ties in the data
    "right",  # pairs with chosen > rejected, ties half
    "ties",  # pairs with equal rewards
    "chosen",  # sum of chosen rewards
    "rejected",  # sum of rejected rewards
    "squares",  # sum of squared rewards of both sides
    "loss",  # weighted sum of group losses
    "weight",  # sum of group weights
    "tokens",  # real (non-padding) tokens
)


class PreferenceSums:
    """
    Running sums over preference pairs on the device; one reduction and one division when they are read.

    `update` neither synchronises the device nor talks to other processes. Pairs with weight 0 (rows that were repeated
    only to even out processes) count nowhere; pairs of which the data prefers neither side count in the loss alone.

    Examples:

    >>> import torch
    >>> sums = PreferenceSums()
    >>> sums.update(torch.tensor([2.0, 1.0, 0.0]), torch.tensor([1.0, 1.0, 3.0]), counted=torch.ones(3))
    >>> result = sums.compute()
    >>> result["accuracy"], result["tie_rate"], result["pairs"]
    (0.5, 0.3333333333333333, 3)
    """

    def __init__(self) -> None:
        self._sums: Tensor | None = None

    def update(
        self,
        chosen_rewards: Tensor,
        rejected_rewards: Tensor,
        counted: Tensor,
        loss: Tensor | None = None,
        weight: Tensor | None = None,
        tokens: Tensor | None = None,
        decided: Tensor | None = None,
    ) -> None:
        """
        Add one batch.

        Args:
            chosen_rewards, rejected_rewards (`torch.Tensor`): Rewards of the two sides, in reward units.
            counted (`torch.Tensor`): 1 where a pair counts, 0 where it is a repeated row.
            loss, weight (`torch.Tensor`, *optional*): Loss and weight of each group.
            tokens (`torch.Tensor`, *optional*): Number of real tokens of the batch.
            decided (`torch.Tensor`, *optional*): False where the data prefers neither side; defaults to none.

        Shape:
            `chosen_rewards`, `rejected_rewards`, `counted`, `decided`: (P,); `loss`, `weight`: (G,); `tokens`: ().
        """
        dtype = torch.float32 if chosen_rewards.device.type == "mps" else torch.float64
        chosen, rejected, counted = (x.detach().to(dtype) for x in (chosen_rewards, rejected_rewards, counted))
        zero = chosen.new_zeros(())
        seen = counted.sum()
        counted = counted if decided is None else counted * decided
        ties = (chosen == rejected).to(dtype)
        batch = torch.stack(
            [
                counted.sum(),
                seen - counted.sum(),
                (counted * ((chosen > rejected).to(dtype) + ties / 2)).sum(),
                (counted * ties).sum(),
                (counted * chosen).sum(),
                (counted * rejected).sum(),
                (counted * (chosen.square() + rejected.square())).sum(),
                zero if loss is None or weight is None else (weight * loss.detach()).to(dtype).sum(),
                zero if weight is None else weight.to(dtype).sum(),
                zero if tokens is None else tokens.to(dtype),
            ]
        )
        self._sums = batch if self._sums is None else self._sums + batch

    def compute(
        self, reduce: Callable[[Tensor], Tensor] | None = None, device: torch.device | str = "cpu"
    ) -> dict[str, float]:
        """
        Read the metrics; every process must call this together when `reduce` is given.

        Args:
            reduce (`Callable`, *optional*): Sums a tensor over all processes.
            device (`torch.device`, defaults to `"cpu"`): Where a process that saw no batch makes its zeros.

        Returns:
            `dict[str, float]`: `loss` (if losses were given), `accuracy`, `tie_rate`, `reward_margin`,
            `chosen_reward`, `rejected_reward`, `reward_mean`, `reward_std`, and the counts `pairs` and `tokens`, and
            `undecided_pairs` if there are any. Empty when no pair was counted.
        """
        total = dict(zip(NAMES, self.totals(reduce, device), strict=True))
        pairs, undecided = total["pairs"], int(total["undecided"])
        metrics: dict[str, float] = {"loss": total["loss"] / total["weight"]} if total["weight"] > 0 else {}
        if undecided:
            metrics |= {"undecided_pairs": undecided, "pairs": 0, "tokens": int(total["tokens"])}
        if pairs == 0:
            return metrics if undecided else {}
        mean = (total["chosen"] + total["rejected"]) / (2 * pairs)
        return metrics | {
            "accuracy": total["right"] / pairs,
            "tie_rate": total["ties"] / pairs,
            "reward_margin": (total["chosen"] - total["rejected"]) / pairs,
            "chosen_reward": total["chosen"] / pairs,
            "rejected_reward": total["rejected"] / pairs,
            "reward_mean": mean,
            "reward_std": max(total["squares"] / (2 * pairs) - mean * mean, 0.0) ** 0.5,
            "pairs": int(pairs),
            "tokens": int(total["tokens"]),
        }

    def totals(
        self, reduce: Callable[[Tensor], Tensor] | None = None, device: torch.device | str = "cpu"
    ) -> list[float]:
        """The sums themselves, as [`~PreferenceSums.restore`] takes them; arguments as in `compute`."""
        sums = self._zeros(device) if self._sums is None else self._sums
        return list((sums if reduce is None else reduce(sums)).tolist())

    def restore(self, totals: list[float], device: torch.device | str = "cpu") -> None:
        """Go on from sums that were read before."""
        self._sums = self._zeros(device)
        self._sums += torch.tensor(totals, dtype=self._sums.dtype, device=device)

    def _zeros(self, device: torch.device | str) -> Tensor:
        dtype = torch.float32 if torch.device(device).type == "mps" else torch.float64
        return torch.zeros(len(NAMES), dtype=dtype, device=device)

    def reset(self) -> None:
        """Forget everything that was added."""
        self._sums = None
