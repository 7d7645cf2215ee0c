"""A layer's inputs and outputs as rows of a linear problem: one row for each sampled position.

A convolution multiplies each patch of its input by its weights, so a row is a patch, in the order
of the weights' columns. A linear layer's positions are its tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

Layer = nn.Conv2d | nn.Linear

MOST_COLUMNS = 6144
"""The most inputs whose products are summed: two matrices of 300 MB, and seconds for their inverse.
"""


def taps(layer: Layer) -> list[tuple[int, int]] | None:
    """The places of a kernel whose weights change; None where even one is too many.

    All of them, or the middle one where a patch has too many inputs for all.
    """
    if isinstance(layer, nn.Linear):
        return [(0, 0)] if layer.in_features <= MOST_COLUMNS else None
    tall, broad = _pair(layer.kernel_size)
    if layer.in_channels * tall * broad <= MOST_COLUMNS:
        return [(i, j) for i in range(tall) for j in range(broad)]
    return [(tall // 2, broad // 2)] if layer.in_channels <= MOST_COLUMNS else None


def column_count(layer: Layer) -> int:
    """How many columns ``input_rows`` has."""
    inputs = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
    return inputs * len(taps(layer) or ()) + (layer.bias is not None)


def positions(layer: Layer, output: Tensor) -> int:
    """How many positions one sample's output has."""
    if isinstance(layer, nn.Linear):
        return output[0].numel() // output.shape[-1]
    return output.shape[2] * output.shape[3]


def output_rows(layer: Layer, output: Tensor, chosen: Tensor) -> Tensor:
    """The outputs at the positions ``chosen`` (P,) of every sample: (B * P, outputs)."""
    if isinstance(layer, nn.Linear):
        tokens = output.reshape(output.shape[0], -1, output.shape[-1])
        return tokens[:, chosen].flatten(0, 1)
    return output.flatten(2)[:, :, chosen].transpose(1, 2).flatten(0, 1)


def input_rows(layer: Layer, value: Tensor, output: Tensor, chosen: Tensor) -> Tensor:
    """What the layer multiplies at the positions ``chosen`` of every sample.

    Args:
        layer: The layer.
        value: Its input.
        output: What it gives for that input.
        chosen: (P,) positions of the output.

    Returns:
        (B * P, columns): channels by channels, each at the layer's ``taps``; and a last column of
        ones for the bias, where there is one.
    """
    if isinstance(layer, nn.Linear):
        rows = output_rows(layer, value, chosen)
    else:
        rows = _patches(layer, value, output.shape[3], chosen)
    if layer.bias is None:
        return rows
    return torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)


def add_change(layer: Layer, change: Tensor) -> None:
    """Add ``change`` (outputs, columns as in ``input_rows``) to the layer's weights, in place."""
    places = taps(layer)
    assert places is not None
    change = change.to(layer.weight.dtype)
    with torch.no_grad():
        if layer.bias is not None:
            layer.bias += change[:, -1]
            change = change[:, :-1]
        if isinstance(layer, nn.Linear):
            layer.weight += change
            return
        each = change.reshape(len(change), layer.in_channels, len(places))
        for place, (i, j) in enumerate(places):
            layer.weight[:, :, i, j] += each[:, :, place]


def _patches(layer: nn.Conv2d, value: Tensor, width: int, chosen: Tensor) -> Tensor:
    (high, wide), (down, right) = _pair(layer.padding), _pair(layer.stride)
    padded = functional.pad(value, (wide, wide, high, high))
    top, left = chosen // width * down, chosen % width * right
    apart, aside = _pair(layer.dilation)
    places = taps(layer)
    assert places is not None
    parts = [padded[:, :, top + i * apart, left + j * aside] for i, j in places]
    return torch.stack(parts, dim=2).permute(0, 3, 1, 2).flatten(0, 1).flatten(1)


def _pair(value: object) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    assert isinstance(value, tuple)
    return value
