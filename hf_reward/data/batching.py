"""Which rows make a batch: a budget of tokens, and lengths grouped where rows are padded."""

import heapq
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from hf_reward.data.collator import completions_of
from hf_reward.data.layouts import BatchLayout, laid_out_tokens, shared_prompt_length
from hf_reward.errors import ConfigurationError


# Batches whose rows are drawn together and then divided by length. Over so few, a batch still mixes lengths.
WINDOW = 8
# Where a budget is filled with padded rows, they differ in length by at most this part within a window.
WINDOW_SPREAD = 0.3
# Rows whose tokens differ by less than this part may take each other's place in a batch.
LENGTH_CLASS = 0.05


class TokenBudgetSampler(Sampler[list[int]]):
    """
    Batches of rows whose laid-out tokens stay within a budget, for one of several processes.

    Rows without padding: from the longest row to the shortest, each goes to the batch that is the least full, so that
    all batches hold nearly as many tokens and a mix of all lengths. In every epoch, rows of nearly equal length take
    each other's places, which all count as the longest of them. Padded rows: the rows are sorted by length and cut
    into windows; a batch holds as many rows of one window as fit at the window's longest.

    The number of batches is known beforehand, the same in all epochs and on all processes, and every row is used once
    in an epoch. The order is a function of seed and epoch.

    Args:
        tokens: Tokens that each row takes; see [`row_tokens`].
        budget (`int`): Tokens of one batch on one process.
        padded (`bool`): Rows are padded to the longest of their batch.
        seed (`int`): Seed of the order.
        rank (`int`, *optional*, defaults to 0), processes (`int`, *optional*, defaults to 1): Whose batches these are.

    Raises:
        `ConfigurationError`: One row alone exceeds the budget, or the rows cannot be divided among the processes
            within it.

    Examples:

    >>> sampler = TokenBudgetSampler([10, 60, 20, 50, 30, 40], budget=120, padded=False, seed=0)
    >>> len(sampler), sorted(row for batch in sampler for row in batch)
    (2, [0, 1, 2, 3, 4, 5])
    """

    def __init__(
        self, tokens: Sequence[int], budget: int, padded: bool, seed: int, rank: int = 0, processes: int = 1
    ) -> None:
        self.tokens = np.asarray(tokens)
        self.budget, self.padded, self.seed = budget, padded, seed
        self.rank, self.processes = rank, processes
        self.epoch = 0
        longest = int(self.tokens.argmax())
        if self.tokens[longest] > budget:
            raise ConfigurationError(
                f"`max_tokens_per_batch`: found {budget}, but row {longest} takes {self.tokens[longest]} tokens; "
                "expected at least as many, or a lower `max_length`"
            )
        self._order = np.argsort(-self.tokens, kind="stable")
        # Stretches of the sorted rows within which rows change places from epoch to epoch.
        self._classes: list[slice] = [] if padded else self._classes_of_length()
        # Where rows are padded, how many a batch holds; otherwise for each row in order the batch that it goes to.
        self._sizes = self._padded_sizes() if padded else []
        self._places = np.zeros(0, dtype=int) if padded else self._fill()
        self._batches = len(self._sizes) if padded else int(self._places.max()) + 1
        if self._batches > len(self.tokens) or self._batches % processes:
            raise ConfigurationError(
                f"`max_tokens_per_batch`: found {budget}, by which {len(self.tokens)} rows cannot be divided among "
                f"{processes} processes; expected more, or fewer processes"
            )

    def set_epoch(self, epoch: int) -> None:
        """Draw the batches of this epoch from now on."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self._batches // self.processes

    def __iter__(self) -> Iterator[list[int]]:
        generator = np.random.default_rng([self.seed, self.epoch])
        batches = self._draw(generator)
        # Neighbours are alike, so that what the processes compute at the same time takes equally long.
        turns = generator.permutation(len(self))
        for turn in turns:
            yield [int(row) for row in batches[turn * self.processes + self.rank]]

    def _classes_of_length(self) -> list[slice]:
        """Stretches of the sorted rows within which the longest row is hardly longer than the shortest."""
        ordered = self.tokens[self._order]
        classes, start = [], 0
        while start < len(ordered):
            end = int(np.searchsorted(-ordered, -ordered[start] * (1 - LENGTH_CLASS), side="right"))
            classes.append(slice(start, end))
            start = end
        return classes

    def _fill(self) -> np.ndarray:
        """Batch numbers of the sorted rows: as few batches, a multiple of the processes, as the budget allows."""
        longest = np.concatenate([np.full(c.stop - c.start, self.tokens[self._order[c.start]]) for c in self._classes])
        count = -(-int(longest.sum()) // self.budget)
        while True:
            count = -(-count // self.processes) * self.processes
            if count > len(longest):
                return np.arange(count)
            heap = [(0, batch) for batch in range(count)]
            places = np.zeros(len(longest), dtype=int)
            for row, tokens in enumerate(longest.tolist()):
                held, places[row] = heap[0]
                heapq.heapreplace(heap, (held + tokens, places[row]))
            if max(heap)[0] <= self.budget:
                return places
            count += max(1, count // 100)

    def _draw(self, generator: np.random.Generator) -> list[np.ndarray]:
        rows = self._shuffled(generator)
        if self.padded:
            batches = np.split(rows, np.cumsum(self._sizes)[:-1])
            return sorted(batches, key=lambda batch: -int(self.tokens[batch].max() * len(batch)))
        by_batch = rows[np.argsort(self._places, kind="stable")]
        batches = np.split(by_batch, np.cumsum(np.bincount(self._places))[:-1])
        # From the fullest to the emptiest.
        return sorted(batches, key=lambda batch: -int(self.tokens[batch].sum()))

    def _padded_sizes(self) -> list[int]:
        """Rows of every batch, in the order of the sorted rows; rows change places within windows."""
        ordered = self.tokens[self._order]
        sizes: list[int] = []
        start = 0
        while start < len(ordered):
            rows = self.budget // int(ordered[start])
            alike = int(np.searchsorted(-ordered, -ordered[start] * (1 - WINDOW_SPREAD), side="right"))
            end = min(alike, start + WINDOW * rows)
            self._classes.append(slice(start, end))
            sizes += [len(part) for part in np.array_split(ordered[start:end], -(-(end - start) // rows))]
            start = end
        while len(sizes) % self.processes and len(sizes) < len(self._order):
            largest = int(np.argmax(sizes))
            half = sizes[largest] // 2
            sizes[largest : largest + 1] = [sizes[largest] - half, half]
        return sizes + [0] * (-len(sizes) % self.processes)

    def _shuffled(self, generator: np.random.Generator) -> np.ndarray:
        """The sorted rows, with those that may take each other's places in a new order."""
        rows = self._order.copy()
        for part in self._classes:
            rows[part] = generator.permutation(rows[part])
        return rows


class LengthGroupedSampler(Sampler[int]):
    """
    A random order in which neighbouring rows are of similar length, so that padded batches hold less padding.

    The rows are shuffled, and the rows of every few batches are sorted by length among themselves; then these batches
    are put into random order. Batches of one length only, which would tie the loss of a step to it, are not made.

    Args:
        lengths: Tokens of the longest completion of each row.
        batch_size (`int`): Rows that are computed together, over all processes.
        seed (`int`): Seed of the order.

    Examples:

    >>> sorted(LengthGroupedSampler([3, 1, 2], batch_size=2, seed=0))
    [0, 1, 2]
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths = np.asarray(lengths)
        self.batch_size, self.seed = batch_size, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Give the order of this epoch from now on."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng([self.seed, self.epoch])
        order = generator.permutation(len(self.lengths))
        whole: list[np.ndarray] = []
        rest: list[np.ndarray] = []
        for start in range(0, len(order), WINDOW * self.batch_size):
            window = order[start : start + WINDOW * self.batch_size]
            window = window[np.argsort(-self.lengths[window], kind="stable")]
            batches = np.split(window, range(self.batch_size, len(window), self.batch_size))
            whole += [batch for batch in batches if len(batch) == self.batch_size]
            rest += [batch for batch in batches if len(batch) < self.batch_size]
        # Only the last batch may be short.
        turns = [whole[turn] for turn in generator.permutation(len(whole))] + rest
        for batch in turns:
            yield from (int(row) for row in batch)


def row_tokens(dataset: Any, layout: BatchLayout, multiple: int = 1) -> list[int]:
    """
    Tokens that every row of a tokenised dataset takes in a batch.

    Args:
        dataset: Rows of token ids.
        layout (`str`): The layout. Padded, a row takes the length of its longest completion times the largest number
            of completions of any row, so that sums of equally long rows hold for a whole batch.
        multiple (`int`, *optional*, defaults to 1): Padded lengths are multiples of this.
    """
    groups = [(row_lengths, shared) for row_lengths, shared in map(_lengths, dataset)]
    if layout != "padded":
        return [laid_out_tokens(lengths, shared, layout) for lengths, shared in groups]
    most = max((len(lengths) for lengths, _ in groups), default=0)
    return [-(-max(lengths) // multiple) * multiple * most for lengths, _ in groups]


def _lengths(row: Any) -> tuple[list[int], int]:
    group = completions_of(row)
    return [len(completion) for completion in group], shared_prompt_length(group)
