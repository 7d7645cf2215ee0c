"""Workarounds for two bugs of the ONNX exporters, active while a model is exported.

- ``x.squeeze(d)`` where dimension d is not 1 does nothing in torch. ONNX's Squeeze demands a 1, and
  torch's exporter (2.13, torchlib ``aten_squeeze_dim``) writes one all the same: an invalid graph.
- ``x + 1e-15`` is dropped: onnxscript's rewriter matches every constant below 1e-8 as 0 (0.7,
  ``rules.common._no_op.add_0``). If the sum guards a division, 0 / 0 gives NaN.

Neither workaround changes a value: such a squeeze does nothing, and for x >= 0 max(x, 1e-15)
differs from x + 1e-15 by at most 1e-15.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_READ_AS_ZERO = 1e-8


def exporter_workarounds() -> AbstractContextManager[object]:
    """Return a context for a forward pass; it has an effect only during an export."""
    return ExporterWorkarounds() if torch.compiler.is_compiling() else nullcontext()


class ExporterWorkarounds(TorchFunctionMode):
    """Replaces the two operations by equal ones that exporters translate correctly."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        name = getattr(func, "__name__", "")
        if name == "squeeze" and len(args) == 2 and _squeezes_nothing(*args):
            return args[0]
        if name in ("add", "__add__") and len(args) == 2 and _guards_a_division(args[1]):
            return torch.clamp_min(*args)
        return func(*args, **(kwargs or {}))


def _squeezes_nothing(x: Tensor, dim: object) -> bool:
    """A dimension that the graph leaves open is of many places, and not 1."""
    return isinstance(dim, int) and not (isinstance(x.shape[dim], int) and x.shape[dim] == 1)


def _guards_a_division(value: object) -> bool:
    return isinstance(value, float) and 0 < value < _READ_AS_ZERO
