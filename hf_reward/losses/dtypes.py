"""The number format of every loss: float32, or better where the rewards have better."""

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """
    Raise half-precision numbers to float32 and leave others as they are.

    Examples:

    >>> import torch
    >>> at_least_float32(torch.ones(1, dtype=torch.bfloat16)).dtype, at_least_float32(torch.ones(1).double()).dtype
    (torch.float32, torch.float64)
    """
    return values.to(torch.promote_types(values.dtype, torch.float32))
