"""How far a network can be lowered, and the refusal of what lies beyond.

It imports nothing large, so that a request that cannot succeed is refused at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from diffc.errors import RequestError
from diffc.recipe import BuildSection

VALUE_BYTES = {"fp32": 4, "auto": 4, "fp16": 2, "bf16": 2, "int8": 1, "fp8": 1}
"""Precision -> bytes of a number in memory; ``auto`` may turn out to be fp32."""


def widest_value(build: BuildSection) -> int:
    """Bytes of a number in the widest precision that any target is built in."""
    return max(VALUE_BYTES[build.of(name).precision] for name in build.target)


@dataclass(frozen=True)
class Reach:
    """How far a measure, such as MACs, can be lowered.

    Attributes:
        stays: The share of the dense model's that stays at the least.
        fixed: The units that hold the most of it and may not shrink.
    """

    stays: float
    fixed: tuple[str, ...] = ()

    def check_ratio(self, ratio: float) -> None:
        """Raise RequestError where less would stay than can; it says how much can be removed."""
        if self.stays <= 1 - ratio:
            return
        most = math.floor((1 - self.stays) * 1000) / 1000
        raise RequestError(
            f"ratio {ratio:.3g} cannot be reached: at most {most:.3g} can be removed",
            hint=f"lower --ratio, the floors or the alignment{self._because}",
        )

    def check_fit(self, fit: str, most: float, dense: float) -> None:
        """The same of memory.

        Args:
            fit: What was asked for, in the user's words.
            most: The same in bytes.
            dense: Bytes of the dense model.
        """
        if self.stays * dense <= most:
            return
        raise RequestError(
            f"--fit {fit} cannot be reached: at least {self.stays * dense / 1e6:.3g} MB of the "
            f"dense model's {dense / 1e6:.3g} MB stay",
            hint=f"give more, a precision of fewer bytes, or lower the floors{self._because}",
        )

    @property
    def _because(self) -> str:
        return f"; held by {', '.join(self.fixed)}" if self.fixed else ""
