"""What a call of a network keeps in memory beside its weights."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from diffc.models.denoiser import Denoiser


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
