"""Sums over the channels of a tensor, a part of its rows at a time.

A tensor may be a tenth of a network, and its products in float64 three times that: they are worked
in parts, and never lie in memory whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffc.errors import InputError

PART = 1 << 20
"""The most elements that are worked at once, but for a tensor of longer rows."""


def channel_sums(rows: Callable[[slice], Tensor], shape: Sequence[int], dim: int) -> Tensor:
    """Sum a tensor over everything but one dimension, in float64.

    Args:
        rows: Gives rows of the tensor.
        shape: Of the tensor.
        dim: The dimension that stays.
    """
    count = shape[0]
    each = max(1, PART * count // max(1, int(np.prod(shape))))
    others = [place for place in range(len(shape)) if place != dim]
    sums: Tensor | None = None  # one for all parts: small tensors between large ones pin memory
    for first in range(0, count, each):
        part = rows(slice(first, first + each)).double()
        if sums is None:
            sums = part.new_zeros(shape[dim])
        place = slice(first, first + each) if dim == 0 else slice(None)
        sums[place] += part.sum(dim=others) if others else part
        del part  # before the next one comes
    return torch.zeros(shape[dim], dtype=torch.float64) if sums is None else sums


def finite_sums(sums: Tensor, name: str) -> NDArray[np.float64]:
    """``sums`` of products of weights and gradients.

    Args:
        sums: One for each channel of a tensor.
        name: The tensor.

    Raises:
        InputError: One is not finite.
    """
    if not torch.isfinite(sums).all():
        raise InputError(f"the gradients of {name} are not finite; importance cannot be ranked")
    value: NDArray[np.float64] = sums.cpu().numpy()
    return value
