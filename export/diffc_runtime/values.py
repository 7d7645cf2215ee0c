"""Types that several modules of the runtime name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]
Denoise = Callable[[dict[str, Array]], Array]
"""The denoiser: its inputs by name, each (B, ...), -> its output (B, ...)."""
