"""A stream for several processes: each reads all of it and takes its part of every batch, the last one filled up."""

from collections.abc import Iterable, Iterator
from typing import Any

from torch.utils.data import IterableDataset


class EvenStream(IterableDataset[dict[str, Any]]):
    """
    The rows of a stream, and after its end as many more, of weight 0, as fill up the last batch of all processes.

    accelerate alone would fill it up with rows from the start, which would count twice, and it would give each process
    files of its own, so that one could be at its end before the others.

    Args:
        rows (`Iterable[dict]`): A stream of tokenised rows.
        multiple (`int`): Rows in one batch of all processes together.

    Attributes:
        count (`int`): Rows of the stream, once it was read to its end in this process; 0 before.

    Examples:

    >>> stream = EvenStream([{"length": 5}, {"length": 7}, {"length": 6}], multiple=2)
    >>> [(row["length"], row["weight"]) for row in stream], stream.count
    ([(5, 1.0), (7, 1.0), (6, 1.0), (6, 0.0)], 3)
    """

    def __init__(self, rows: Iterable[dict[str, Any]], multiple: int) -> None:
        self.rows, self.multiple, self.count = rows, multiple, 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The rows, each with a weight."""
        count, row = 0, {}
        for row in self.rows:
            count += 1
            yield {"weight": 1.0} | row
        self.count = count
        for _ in range(-count % self.multiple):
            yield row | {"weight": 0.0}

    def set_epoch(self, epoch: int) -> None:
        """Say to the stream which pass over the data begins; it is shuffled by that, if at all."""
        if hasattr(self.rows, "set_epoch"):
            self.rows.set_epoch(epoch)
