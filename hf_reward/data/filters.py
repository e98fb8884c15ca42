"""Filters that need all rows at hand: the same pair in both orders, the same pair twice."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np


# Into how many parts rows are divided by their keys; sorting a part takes that much less memory than sorting all.
PARTS = 16

# Gives the numbers of some rows (a mask).
Column: TypeAlias = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Filters:
    """
    Which filters of whole splits are on.

    Attributes:
        drop_contradictory (`bool`): A pair that stands in both orders is dropped, in both orders: there is no telling
            which is right. For larger groups, the same completions in another order.
        drop_duplicates (`bool`): Of equal pairs the first is kept. Copies that an amount above 1.0 asks for stay.
    """

    drop_contradictory: bool = True
    drop_duplicates: bool = True

    def reasons(
        self, number: Callable[[str, np.ndarray], np.ndarray], source: np.ndarray, usable: np.ndarray
    ) -> dict[str, np.ndarray]:
        """
        Look for rows to drop among those that are usable so far.

        Args:
            number (`Callable`): Gives the column `set_key`, `order_key` or `source_row` for some rows (a mask).
            source (`np.ndarray`): The number of each row's source.
            usable (`np.ndarray`): Rows without a drop reason.

        Returns:
            `dict[str, np.ndarray]`: By reason, a mask over all rows; no row stands in two of them.

        Shape:
            Every array: (rows of the split,).
        """
        order_keys, found = partial(number, "order_key"), {}
        if self.drop_contradictory:
            found["contradictory"] = _in_parts(find_contradictory, usable, partial(number, "set_key"), order_keys)
            usable = usable & ~found["contradictory"]
        if self.drop_duplicates:
            columns = (order_keys, source.__getitem__, partial(number, "source_row"))
            found["duplicate"] = _in_parts(find_duplicates, usable, *columns)
        return found


def find_contradictory(set_keys: np.ndarray, order_keys: np.ndarray) -> np.ndarray:
    """
    Rows whose completions stand elsewhere in another order.

    Examples:

    >>> import numpy as np
    >>> find_contradictory(np.array([7, 8, 7]), np.array([1, 2, 3])).tolist()
    [True, False, True]
    """
    _, first, group = np.unique(set_keys, return_index=True, return_inverse=True)
    differs = order_keys != order_keys[first][group]
    several = np.zeros(len(first), dtype=bool)
    several[group[differs]] = True
    return several[group]


def find_duplicates(keys: np.ndarray, sources: np.ndarray, source_rows: np.ndarray) -> np.ndarray:
    """
    Rows that repeat an earlier row, unless both are copies of one row of one source.

    Examples:

    >>> import numpy as np
    >>> find_duplicates(np.array([5, 5, 5]), np.array([0, 0, 0]), np.array([1, 2, 1])).tolist()
    [False, True, False]
    """
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    original = first[group]
    return np.asarray((sources != sources[original]) | (source_rows != source_rows[original]))


def _in_parts(find: Callable[..., np.ndarray], usable: np.ndarray, *columns: Column) -> np.ndarray:
    """What `find` finds, part by part: rows with equal keys, the first column, stand in one part, in their order."""
    part_of = np.full(len(usable), PARTS, dtype=np.uint8)
    part_of[usable] = columns[0](usable).astype(np.uint8) & (PARTS - 1)
    found = np.zeros(len(usable), dtype=bool)
    for part in range(PARTS):
        rows = part_of == part
        if rows.any():
            found[rows] = find(*(column(rows) for column in columns))
    return found
