"""Groups: channels that must be cut together.

Cutting output channel c of one layer forces its bias, the norm after it, the input columns of every
layer that reads it, and every tensor that is added to it elsewhere. A ``Group`` is the closure of
that: C channels, and for each channel the positions that it occupies in each tensor. Once a family
has listed its groups, importance is a sum over slices, surgery an index_select over slices, and the
tests' oracle a multiplication by zero over slices; none of them has to know the network.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

BRANCH_KINDS = ("branch", "block")
"""Kinds of units that are left out whole (models/branches.py); all others are groups."""


class Role(str, Enum):
    """What the positions of a slice are to the channel: they make it, read it, or scale it."""

    OUT = "out"  # rows that produce the channel (weights, biases)
    IN = "in"  # columns that read the channel
    NORM = "norm"  # a normalisation's scale and shift


@dataclass(frozen=True)
class Slice:
    """The positions that a group's channels occupy along one dimension of one tensor.

    Attributes:
        tensor: The name of a parameter or buffer: ``down_blocks.0.resnets.0.conv1.weight``.
        dim: The dimension that is cut.
        role: The relation of that dimension to the channel.
        index: int64 (C, k): row c holds the k positions of channel c. k > 1 where a channel
            occupies several: both halves of a GEGLU, all the elements of a head, a flattened
            feature map.
    """

    tensor: str
    dim: int
    role: Role
    index: NDArray[np.int64] = field(repr=False)

    @property
    def module(self) -> str:
        """The name of the module that owns the tensor."""
        return self.tensor.rpartition(".")[0]


@dataclass(frozen=True)
class Group:
    """C channels that can be cut, each by its positions in every tensor that it occupies.

    Attributes:
        name: The layer that computes the channels; recipes and plans call the group by it.
        size: C.
        slices: The channels' positions, tensor by tensor.
        runs: The channels come in this many equal runs (GroupNorm's groups, heads). The same number
            is kept in each run, and channels are ranked inside their run, so that every run stays
            whole.
        elements: Elements along its layer's width that one channel stands for (a head's size; else
            1).
        kind: ``channels``, ``ffn``, ``heads`` or ``head_dim``, for people and for defaults.
        heads_of: The Attention whose number of heads this group is; surgery sets that number.
        temperature: Tensors to multiply by sqrt(kept / size), so that a softmax over shorter heads
            keeps its temperature.
    """

    name: str
    size: int
    slices: tuple[Slice, ...] = field(repr=False)
    runs: int = 1
    elements: int = 1
    kind: str = "channels"
    heads_of: str | None = None
    temperature: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.size % self.runs:
            raise ValueError(f"{self.name}: {self.size} channels do not split into {self.runs}")
        for piece in self.slices:
            if len(piece.index) != self.size:
                raise ValueError(f"{self.name}: {piece.tensor} has {len(piece.index)} rows")

    def by_role(self, role: Role) -> Iterator[Slice]:
        """Return the slices of one role."""
        return (piece for piece in self.slices if piece.role is role)
