"""Which layers a repair can mend: those that read channels which the cut took away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diffc.models.groups import Group
from diffc.models.layer_rows import Layer
from diffc.prune.surgery import Keep, removed_positions


@dataclass(frozen=True)
class Reader:
    """A layer that reads cut channels.

    Attributes:
        name: The module, in both models.
        outputs: int64 indices of the dense layer's outputs that the cut layer still has.
    """

    name: str
    outputs: Tensor = field(repr=False)


@dataclass(frozen=True)
class Readers:
    """All layers that read cut channels.

    Attributes:
        able: Those that can be mended, by name.
        reasons: Name -> why the layer is left alone.
    """

    able: Mapping[str, Reader]
    reasons: Mapping[str, str]


def readers(dense: nn.Module, cut: nn.Module, groups: Sequence[Group], keep: Keep) -> Readers:
    """Every layer of ``cut`` that reads channels which are gone.

    Args:
        dense: The model before the cut.
        cut: The model after it.
        groups: Of ``dense``.
        keep: Unit's name -> channels kept; units that it does not name stay whole.
    """
    gone = removed_positions(groups, keep)
    rescaled = {name for group in groups if group.name in keep for name in group.temperature}
    there = dict(cut.named_modules())
    able, reasons = {}, {}
    for tensor, dim in gone:
        name, _, leaf = tensor.rpartition(".")
        if dim != 1 or leaf != "weight" or name not in there or name in able:
            continue
        reason = _reason(there[name], tensor in rescaled)
        if reason:
            reasons[name] = reason
        else:
            able[name] = Reader(name, _stay(dense, tensor, gone.get((tensor, 0))))
    return Readers(able, reasons)


def _reason(layer: nn.Module, rescaled: bool) -> str:
    """Why a layer is left alone; empty where it is not."""
    if not isinstance(layer, Layer):
        return f"a {type(layer).__name__} is no convolution of images and no linear layer"
    if isinstance(layer, nn.Conv2d) and layer.groups > 1:
        return f"its {layer.groups} groups of channels are convolved apart"
    if isinstance(layer, nn.Conv2d) and (
        layer.padding_mode != "zeros" or isinstance(layer.padding, str)
    ):
        kind = layer.padding if isinstance(layer.padding, str) else layer.padding_mode
        return f"its padding is '{kind}'"
    if rescaled:
        return "its outputs were scaled with the size of a head"
    return ""


def _stay(dense: nn.Module, tensor: str, gone: NDArray[np.int64] | None) -> Tensor:
    rows = np.arange(dense.get_parameter(tensor).shape[0])
    return torch.from_numpy(rows if gone is None else np.setdiff1d(rows, gone))
