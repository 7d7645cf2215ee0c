"""What a torch module takes: its inputs by name, in the order of its call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    Inputs = dict[str, Tensor]
else:
    Inputs = dict[str, Any]


@dataclass(frozen=True)
class TensorSpec:
    """One input: its name, its shape without the batch, and its dtype in the exported graph.

    kind: ``sample``, ``timestep`` or ``condition``.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    kind: str = "condition"
