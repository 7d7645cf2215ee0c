"""The blocks whose outputs the feature loss compares, and the channels of each that were kept.

A cut knows which channels it removed, so dense and compressed features are compared channel by
channel, with no adapter to learn. Blocks are the residual blocks of a U-Net, whose width is that of
their last convolution, or the blocks of a transformer, whose residual stream is never cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from diffc.distill.losses import Kept
from diffc.models.families.base import Family
from diffc.models.families.streams import listed_block_names
from diffc.models.groups import Group, Role


def kept_channels(
    model: nn.Module,
    family: Family,
    groups: Sequence[Group],
    keep: Mapping[str, NDArray[np.int64]],
) -> Kept:
    """For each block of the dense ``model`` that stays, the output channels that stay.

    Args:
        groups: of ``model``.
        keep: unit's name -> channels kept, none for a branch left out; others stay whole.
    """
    residual = _residual_blocks(model)
    if not residual:
        blocks = listed_block_names(model, family.block_lists)
        return dict.fromkeys(name for name in blocks if not _is_left_out(name, keep))
    rows = _kept_rows(groups, keep)
    return {
        block: rows.get(last) for block, last in residual.items() if not _is_left_out(block, keep)
    }


def block_names(model: nn.Module, family: Family) -> list[str]:
    """The blocks of the dense ``model``, cut or not."""
    return [*_residual_blocks(model)] or listed_block_names(model, family.block_lists)


def _is_left_out(block: str, keep: Mapping[str, NDArray[np.int64]]) -> bool:
    return block in keep and not len(keep[block])


def _residual_blocks(model: nn.Module) -> dict[str, str]:
    """Name of each ResNet block -> the tensor whose rows are its output channels."""
    return {
        name: f"{name}.conv2.weight"
        for name, module in model.named_modules()
        if any(kind.__name__ == "ResnetBlock2D" for kind in type(module).__mro__)  # sharded or not
    }


def _kept_rows(
    groups: Sequence[Group], keep: Mapping[str, NDArray[np.int64]]
) -> dict[str, torch.Tensor]:
    """Tensor -> its rows that stay, for every tensor that a cut group produces."""
    return {
        piece.tensor: torch.from_numpy(np.sort(piece.index[keep[group.name]].ravel()))
        for group in groups
        if group.name in keep
        for piece in group.by_role(Role.OUT)
        if piece.dim == 0
    }
