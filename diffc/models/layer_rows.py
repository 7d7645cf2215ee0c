"""A layer's inputs and outputs as rows of a linear problem: one row for each sampled position.

A convolution multiplies each patch of its input by its weights, so a row is a patch, in the order
of the weights' columns. A linear layer's positions are its tokens.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

Layer = nn.Conv2d | nn.Linear

MOST_COLUMNS = 6144
"""The most inputs whose products are summed at once: two matrices of 300 MB, and seconds for their
inverse. A layer with more is mended block by block.
"""


def blocks(layer: Layer) -> list[slice]:
    """The input channels that are mended at once: all, or blocks one after another.

    The blocks are as large as ``MOST_COLUMNS`` allows; their sizes differ by at most one channel.
    """
    if isinstance(layer, nn.Linear):
        channels, each = layer.in_features, 1
    else:
        channels, each = layer.in_channels, math.prod(_pair(layer.kernel_size))
    count = -(-channels // max(1, MOST_COLUMNS // each))
    edges = [channels * place // count for place in range(count + 1)]
    return [slice(first, last) for first, last in itertools.pairwise(edges)]


def column_count(layer: Layer, block: slice) -> int:
    """How many columns ``input_rows`` has for the input channels ``block``, the bias's included."""
    return layer.weight[:1, block].numel() + (layer.bias is not None)


def positions(layer: Layer, output: Tensor) -> int:
    """How many positions one sample has in the layer's ``output`` (B, ...): tokens or pixels."""
    if isinstance(layer, nn.Linear):
        return output[0].numel() // output.shape[-1]
    return output.shape[2] * output.shape[3]


def output_rows(layer: Layer, output: Tensor, chosen: Tensor) -> Tensor:
    """The values of ``output`` (B, ...) at the positions ``chosen`` (P,) of every sample.

    Returns:
        (B * P, output channels), sample by sample.
    """
    if isinstance(layer, nn.Linear):
        tokens = output.reshape(output.shape[0], -1, output.shape[-1])
        return tokens[:, chosen].flatten(0, 1)
    return output.flatten(2)[:, :, chosen].transpose(1, 2).flatten(0, 1)


def input_rows(layer: Layer, value: Tensor, output: Tensor, chosen: Tensor, block: slice) -> Tensor:
    """What the layer multiplies at the positions ``chosen`` of every sample.

    Args:
        layer: The layer.
        value: Its input.
        output: What it gives for that input.
        chosen: (P,) positions of the output.
        block: The input channels to look at.

    Returns:
        (B * P, columns), sample by sample. The columns are the channels of the block in turn, each
        at all places of the kernel, and at the end a column of ones if the layer has a bias.
    """
    if isinstance(layer, nn.Linear):
        rows = output_rows(layer, value[..., block], chosen)
    else:
        rows = _patches(layer, value[:, block], output.shape[3], chosen)
    if layer.bias is None:
        return rows
    return torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)


@torch.no_grad()
def add_change(layer: Layer, change: Tensor, block: slice) -> None:
    """Add ``change`` (output channels, columns as in ``input_rows``) to the layer, in place.

    The last column goes to the bias, if the layer has one; the others to the weights of ``block``.
    """
    change = change.to(layer.weight.dtype)
    if layer.bias is not None:
        layer.bias += change[:, -1]
        change = change[:, :-1]
    part = layer.weight[:, block]
    part += change.reshape(part.shape)


def _patches(layer: nn.Conv2d, value: Tensor, width: int, chosen: Tensor) -> Tensor:
    (high, wide), (down, right) = _pair(layer.padding), _pair(layer.stride)
    padded = functional.pad(value, (wide, wide, high, high))
    top, left = chosen // width * down, chosen % width * right
    (tall, broad), (apart, aside) = _pair(layer.kernel_size), _pair(layer.dilation)
    places = itertools.product(range(tall), range(broad))
    parts = [padded[:, :, top + i * apart, left + j * aside] for i, j in places]
    return torch.stack(parts, dim=2).permute(0, 3, 1, 2).flatten(0, 1).flatten(1)


def _pair(value: object) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    assert isinstance(value, tuple)
    return value
