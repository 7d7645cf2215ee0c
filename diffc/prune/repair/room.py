"""How many rows of samples may wait in memory at once.

The number decides the repaired weights, so it follows from the model and a fixed room, never from
what happens to be free.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from diffc.models.denoiser import Denoiser

ROOM = 4 * 2**30
"""Bytes for the activations of all calls that wait, of both models together."""
_LEAST_ROWS = 16


def rows_with_room(wanted: int, models: Sequence[Denoiser], one: Mapping[str, Tensor]) -> int:
    """``wanted`` rows, or as many as ROOM holds, 16 at least.

    Args:
        wanted: How many rows were asked for.
        models: The two whose calls wait.
        one: The inputs of a call with one row.
    """
    each = sum(activation_bytes(denoiser, one) for denoiser in models)
    return min(wanted, max(_LEAST_ROWS, ROOM // max(each, 1)))


@torch.no_grad()
def activation_bytes(denoiser: Denoiser, one: Mapping[str, Tensor]) -> int:
    """The most bytes of modules' outputs that are in memory at once during a call."""
    living: dict[int, int] = {}
    most = 0

    def count(_module: nn.Module, _inputs: object, output: object) -> None:
        nonlocal most
        for value in tree_leaves(output):
            if isinstance(value, Tensor) and id(value) not in living:
                living[id(value)] = value.numel() * value.element_size()
                weakref.finalize(value, living.pop, id(value), None)
        most = max(most, sum(living.values()))

    with ExitStack() as stack:
        for module in denoiser.model.modules():
            stack.callback(module.register_forward_hook(count).remove)
        denoiser.call(one)
    return most
