"""Types that several modules of the runtime name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]
Denoise = Callable[[dict[str, Array]], Array]
"""The denoiser: its inputs by name, each (B, ...), -> its output (B, ...)."""


@dataclass(frozen=True)
class Input:
    """One input of a network: shape without the batch, numpy dtype name, and kind.

    kind: ``sample``, ``timestep`` or ``condition``.
    values: how many values a whole number may have, from 0 on; None: any from 0 on.
    sizes: (H, W) that the last two dimensions may have, that of ``shape`` first; empty: fixed.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    kind: str = "condition"
    sizes: tuple[tuple[int, int], ...] = ()
    values: int | None = None
