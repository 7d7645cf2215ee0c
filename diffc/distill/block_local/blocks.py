"""The blocks that are trained alone, and which channels of the dense block's they still have.

Blocks are those of a transformer's lists, or the residual blocks and attentions of a U-Net. A
transformer's stream is never cut; a U-Net's is, so what flows between the dense network's blocks is
selected to the channels that the cut block reads and gives.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from diffc.distill.losses import channel_dim
from diffc.models.branches import Shortcut
from diffc.models.families.base import Family
from diffc.models.families.streams import stream_blocks

RemovedPositions = Mapping[tuple[str, int], NDArray[np.int64]]
"""(tensor, dimension) -> positions that a cut took away."""


@dataclass(frozen=True)
class LocalBlock:
    """A block that is trained alone.

    Attributes:
        name: Of the module, in both networks.
        until: The dense network's block whose output it is to give: itself, or the last of the
            blocks right after it that were left out, whose work it learns too.
        inputs: Argument of its call -> int64 indices of the dense block's channels that it still
            reads. Arguments that are not named here stay as they are.
        outputs: The channels of the dense block's output that it still gives; None: all.
    """

    name: str
    until: str
    inputs: Mapping[str, Tensor]
    outputs: Tensor | None

    def arguments(
        self, block: nn.Module, inputs: Sequence[Any], named: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What the cut block is called with, by name, where the dense ``block`` got ``inputs``."""
        bound = inspect.signature(block.forward).bind_partial(*inputs)  # others have names already
        arguments = {**bound.arguments, **named}
        for name, index in self.inputs.items():
            if arguments.get(name) is not None:
                arguments[name] = _selected(arguments[name], index)
        return arguments

    def wanted(self, output: object) -> list[Tensor]:
        """What the cut block is to give, where the dense block gave ``output``."""
        tensors = output_tensors(output)
        return [one if self.outputs is None else _selected(one, self.outputs) for one in tensors]


def output_tensors(output: object) -> list[Tensor]:
    """The tensors of numbers in what a block gave; a block of two streams gives two."""
    leaves = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
    return [leaf for leaf in leaves if leaf.is_floating_point()]


def local_blocks(
    dense: nn.Module, cut: nn.Module, family: Family, removed: RemovedPositions
) -> list[LocalBlock]:
    """The blocks of ``cut`` that can learn from the dense network's.

    A block that lost nothing, and has no lost block behind it, computes what the dense one does: it
    is none of them.

    Args:
        dense: The model before the cut; on the meta device too.
        cut: The model after it; on the meta device too.
        family: Of both.
        removed: (tensor of ``dense``, dimension) -> the positions that were cut.
    """
    blocks, before = list[LocalBlock](), None
    for one in stream_blocks(dense, family.block_lists):
        if not _is_there(cut, one.name):
            if before is not None and not one.gives and before.list_name == one.list_name:
                blocks[-1] = replace(blocks[-1], until=one.name)
            continue
        indices = {name: _stay(dense, tensor, 1, removed) for name, tensor in one.reads.items()}
        inputs = {name: index for name, index in indices.items() if index is not None}
        outputs = _stay(dense, one.gives, 0, removed) if one.gives else None
        blocks.append(LocalBlock(one.name, one.name, inputs, outputs))
        before = one
    return [one for one in blocks if one.until != one.name or _is_cut(dense, cut, one.name)]


def _is_there(cut: nn.Module, name: str) -> bool:
    return not isinstance(cut.get_submodule(name), Shortcut)


def _is_cut(dense: nn.Module, cut: nn.Module, name: str) -> bool:
    ours, theirs = (
        {key: value.shape for key, value in model.get_submodule(name).named_parameters()}
        for model in (cut, dense)
    )
    return ours != theirs


def _stay(dense: nn.Module, tensor: str, dim: int, gone: RemovedPositions) -> Tensor | None:
    """The positions along ``dim`` that stay; None where all do, or where there is no tensor."""
    removed = gone.get((tensor, dim))
    if removed is None:
        return None
    return torch.from_numpy(
        np.setdiff1d(np.arange(dense.get_parameter(tensor).shape[dim]), removed)
    )


def _selected(value: Tensor, index: Tensor) -> Tensor:
    return value.index_select(channel_dim(value), index.to(value.device))
