"""Positions that a graph computes from the size of its sample, so that one file serves many sizes.

diffusers' ``PatchEmbed`` adds a table of sines and cosines. It keeps the table of one size, and a
trace takes it for a constant. Here the same table (of Vaswani et al. 2017, 1706.03762, for rows and
for columns) is computed from the number of rows and columns, or cut out of the table that the model
was trained with (Stable Diffusion 3).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_LONGEST_WAVE = 10_000.0


@contextmanager
def computed_positions(model: nn.Module) -> Iterator[None]:
    """Have the model's patch embeddings compute their positions at every call.

    Args:
        model: The model; it is as before afterwards.
    """
    from diffusers.models.embeddings import PatchEmbed

    embeds: list[Any] = [
        module
        for module in model.modules()
        if isinstance(module, PatchEmbed) and module.pos_embed is not None
    ]
    tables = [embed.pos_embed for embed in embeds]
    hooks = [
        embed.register_forward_hook(_adding(embed, table))
        for embed, table in zip(embeds, tables, strict=True)
    ]
    try:
        for embed in embeds:
            embed.pos_embed = None  # the class then adds nothing
        yield
    finally:
        for embed, table, hook in zip(embeds, tables, hooks, strict=True):
            hook.remove()
            embed.pos_embed = table


def _adding(embed: Any, table: Tensor) -> Any:
    """Return a hook that adds the positions to the patches (B, rows * columns, D)."""

    def hook(_: nn.Module, inputs: tuple[Tensor, ...], patches: Tensor) -> Tensor:
        rows, columns = (side // embed.patch_size for side in inputs[0].shape[-2:])
        if embed.pos_embed_max_size:
            positions = middle_of(table[0], embed.pos_embed_max_size, rows, columns)
        else:
            positions = waves_of(
                rows, columns, table.shape[-1], embed.base_size / embed.interpolation_scale
            )
        return (patches + positions.to(patches.dtype)).to(patches.dtype)

    return hook


def waves_of(rows: int, columns: int, width: int, extent: float) -> Tensor:
    """Return (rows * columns, width): sines and cosines of the column, then of the row.

    Args:
        rows: The number of patches from top to bottom.
        columns: The number from left to right.
        width: The width of an embedding, a multiple of four.
        extent: What the rows, and the columns, are numbered up to, whatever their number.
    """
    down, across = (_waves(count, width // 2, extent) for count in (rows, columns))
    places = (rows, columns, width // 2)
    whole = torch.cat([across[None].expand(places), down[:, None].expand(places)], -1)
    return whole.reshape(rows * columns, width)


def _waves(count: int, width: int, extent: float) -> Tensor:
    """Return (count, width): the sines, then the cosines, of evenly spaced places."""
    half = width // 2
    rates = _LONGEST_WAVE ** (-torch.arange(half, dtype=torch.float64) / half)
    places = torch.arange(count).float()
    # ones are summed because a traced count is no tensor
    angles = (places * extent / torch.ones_like(places).sum())[:, None] * rates.float()
    return torch.cat([angles.sin(), angles.cos()], -1)


def middle_of(table: Tensor, side: int, rows: int, columns: int) -> Tensor:
    """Return (rows * columns, D): the middle of a table (side * side, D)."""
    top, left = (side - rows) // 2, (side - columns) // 2
    square = table.reshape(side, side, -1)
    middle = square[torch.arange(rows) + top][:, torch.arange(columns) + left]
    return middle.reshape(rows * columns, -1)
