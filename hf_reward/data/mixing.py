"""How much of a source is taken, and which prompts are held out for evaluation: seeded draws, counted in rows."""

import logging
from typing import TYPE_CHECKING, TypeVar

from hf_reward.config.source_specs import parse_amount
from hf_reward.errors import ConfigurationError, DataError


if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset, IterableDataset

    D = TypeVar("D", Dataset, IterableDataset)

logger = logging.getLogger(__name__)


def take_amount(dataset: "Dataset", amount: str, name: str) -> "Dataset":
    """Takes an amount of a dataset: whole copies in order, then the rest drawn without replacement.

    The draw is that of `numpy.random.RandomState(42)`, so an amount always names the same rows.

    Args:
        dataset (`datasets.Dataset`):
            The rows to take from.
        amount (`str`):
            With a dot, a fraction of the rows (`"0.5"` a random half, `"2.3"` two copies and 30 %); without a dot, a
            number of rows.
        name (`str`):
            The name of the source, for messages.

    Raises:
        `DataError`: if the fraction is so small that no row is left.
    """
    import numpy as np

    size, wanted = len(dataset), parse_amount(amount)
    count = int(wanted * size) if isinstance(wanted, float) else wanted
    if count == 0:
        raise DataError(f"{name}: the amount {amount} of {size} rows is 0 rows (expected at least 1). Raise it.")
    if isinstance(wanted, int) and wanted <= 10 and size > 100:
        logger.warning("%s: takes %d of %d rows; did you mean the fraction %d.0?", name, wanted, size, wanted)
    if count == size:
        return dataset
    copies, rest = divmod(count, size)
    drawn = np.random.RandomState(42).choice(size, size=rest, replace=False)
    return dataset.select(np.concatenate([np.tile(np.arange(size), copies), drawn]))


def take_from_stream(stream: "IterableDataset", amount: str, name: str) -> "IterableDataset":
    """
    The first rows of a stream, or all of them.

    Raises:
        `ConfigurationError`: The amount is a fraction, of a size that is not known.
    """
    wanted = parse_amount(amount)
    if isinstance(wanted, int):
        return stream.take(wanted)
    if wanted != 1.0:
        raise ConfigurationError(
            f"{name}: found the amount {amount} with `streaming`, which does not know the size; expected 1.0, or a "
            "number of rows"
        )
    return stream


def split_by_prompt(keys: "np.ndarray", size: float, seed: int = 42) -> "np.ndarray":
    """
    Chooses rows for evaluation, all rows of a prompt or none.

    Args:
        keys (`np.ndarray`):
            One key for each row, equal for equal prompts.
        size (`float`):
            Below 1 a fraction of the rows, from 1 on a number of rows. Prompts are drawn until it is reached, so the
            rows of the last one may go beyond it.
        seed (`int`, *optional*, defaults to 42):
            Seed of the draw.

    Returns:
        `np.ndarray` of `bool`: Whether each row is for evaluation.

    Raises:
        `DataError`: No row would be left for training.

    Examples:

    >>> import numpy as np
    >>> keys = np.array([7, 7, 8, 9, 8, 9, 7, 3])
    >>> held_out = split_by_prompt(keys, 0.25)
    >>> sorted(set(keys[held_out].tolist()) & set(keys[~held_out].tolist())), int(held_out.sum())
    ([], 2)
    """
    import numpy as np

    prompts, prompt_of_row, rows_of_prompt = np.unique(keys, return_inverse=True, return_counts=True)
    wanted = max(1, round(size * len(keys))) if size < 1 else int(size)
    order = np.random.default_rng(seed).permutation(len(prompts))
    reached = np.cumsum(rows_of_prompt[order])
    taken = order[: int(np.searchsorted(reached, wanted)) + 1]
    if len(taken) == len(prompts):
        raise DataError(
            f"`eval_split_size` is {size:g}, which leaves no training row of {len(keys)} with {len(prompts)} "
            "prompt(s). Make it smaller, or give evaluation data of its own."
        )
    chosen = np.zeros(len(prompts), dtype=bool)
    chosen[taken] = True
    held_out: np.ndarray = chosen[prompt_of_row]
    return held_out
