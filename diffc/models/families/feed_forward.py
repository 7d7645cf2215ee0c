"""Groups inside feed-forward layers: the width between the two projections.

If the first projection computes a value and a gate (GEGLU, SwiGLU, Sana's GLUMBConv), channel j is
rows j and C + j of it, so both rows are cut together.
"""

from __future__ import annotations

import numpy as np
from diffusers.models.attention import FeedForward
from diffusers.models.transformers.sana_transformer import GLUMBConv
from numpy.typing import NDArray
from torch import nn

from diffc.models.groups import Group, Role, Slice
from diffc.models.sizes import get_tensor


def feed_forward_groups(model: nn.Module) -> list[Group]:
    """Return one group for each FeedForward and each GLUMBConv of ``model``."""
    groups = []
    for name, module in model.named_modules():
        if isinstance(module, FeedForward):
            groups.append(width_group(model, f"{name}.net.0.proj", f"{name}.net.2"))
        elif isinstance(module, GLUMBConv):
            groups.append(
                width_group(
                    model,
                    f"{name}.conv_inverted",
                    f"{name}.conv_point",
                    between=f"{name}.conv_depth",
                )
            )
    return groups


def first_projections(model: nn.Module) -> list[str]:
    """Return the layers whose outputs are a feed-forward's width."""
    return [group.name for group in feed_forward_groups(model)]


def width_group(
    model: nn.Module, first: str, second: str, *, between: str | None = None, offset: int = 0
) -> Group:
    """Return the group of the channels between two projections.

    Args:
        model: The network.
        first: The layer that computes the channels.
        second: The layer that reads them.
        between: A depthwise convolution between the two; None if there is none.
        offset: The column of ``second`` at which the channels begin (Flux's single blocks read
            heads first); the channels reach to the last column.
    """
    size = get_tensor(model, f"{second}.weight").shape[1] - offset
    index = _channel_rows(get_tensor(model, f"{first}.weight").shape[0], size)
    layers = [first] if between is None else [first, between]
    rows = [
        Slice(f"{layer}.{leaf}", 0, Role.OUT, index)
        for layer in layers
        for leaf in ("weight", "bias")
        if getattr(model.get_submodule(layer), leaf, None) is not None
    ]
    columns = np.arange(offset, offset + size, dtype=np.int64)[:, None]
    return Group(
        name=first,
        size=size,
        kind="ffn",
        slices=(*rows, Slice(f"{second}.weight", 1, Role.IN, columns)),
    )


def _channel_rows(made: int, size: int) -> NDArray[np.int64]:
    """Return int64 (size, rows / size): the rows of each channel, one or a value and its gate."""
    rows: NDArray[np.int64] = np.arange(made, dtype=np.int64).reshape(-1, size).T.copy()
    return rows
