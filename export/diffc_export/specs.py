"""What a torch module takes: its inputs by name, in the order of its call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    Inputs = dict[str, Tensor]
else:
    Inputs = dict[str, Any]


@dataclass(frozen=True)
class TensorSpec:
    """One input: its name, its shape without the batch, and its dtype in the exported graph.

    Attributes:
        name: The argument's name in the call.
        shape: The shape without the batch.
        dtype: The number format in the graph.
        kind: ``sample``, ``timestep`` or ``condition``.
        example: A value for tracing and parity where standard normal is out of range: one number,
            one row of ``shape``, or a range that whole numbers are drawn from. It is no part of
            what is exported.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    kind: str = "condition"
    example: float | Sequence[Any] | range | None = field(default=None, compare=False)
