"""How many rows of samples may wait in memory at once.

The number decides the repaired weights, so it follows from the model and a fixed room, never from
what happens to be free.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from diffc.data.activations import activation_bytes
from diffc.models.denoiser import Denoiser

ROOM = 4 * 2**30
"""Bytes for the activations of all calls that wait, of both models together."""
_LEAST_ROWS = 16


def rows_with_room(wanted: int, models: Sequence[Denoiser], one: Mapping[str, Tensor]) -> int:
    """``wanted`` rows, or as many as ROOM holds, 16 at least.

    Args:
        wanted: How many rows were asked for.
        models: The two whose calls wait.
        one: The inputs of a call with one row.
    """
    return rows_from(wanted, sum(activation_bytes(denoiser, one) for denoiser in models))


def rows_from(wanted: int, each: int) -> int:
    """The same from the bytes that ``each`` row takes in both models."""
    return min(wanted, max(_LEAST_ROWS, ROOM // max(each, 1)))
