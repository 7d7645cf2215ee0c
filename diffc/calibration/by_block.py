"""Calls of a network, and their gradients, with one of its blocks in memory at a time.

In a call each block leaves what it was given with ``keep``, in files, and drops its activations.
Going back, the last block first, a block computes its activations again from there, and then its
gradients, which ``take`` is given at once: they are dropped before those of the next block come
(Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost", with a block as the segment).

Weights stay where they are, on the CPU and mapped from their files; on another device a block's are
there while it is worked. What is in no block is there all the time, with its activations: it is
small in a transformer. A U-Net's connections past its blocks are autograd's, as ever.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.weak import WeakIdKeyDictionary

from diffc.calibration.in_files import in_files

Recall: TypeAlias = Callable[[], Tensor]
"""Gives back a value that was put away."""
Take: TypeAlias = Callable[[str, nn.Parameter], None]
"""Is given a parameter of a block by its name in the network, with its gradient, on the device."""


@dataclass(frozen=True)
class Alone:
    """How blocks are worked one at a time.

    Attributes:
        device: Where the block that is worked is.
        keep: Puts away what a block was given.
        take: Gets the gradients.
        wanted: The names of the parameters whose gradients it gets.
        apart: Modules inside blocks that are called outside of them too: they stay on the device.
    """

    device: torch.device
    keep: Callable[[Tensor], Recall]
    take: Take
    wanted: Collection[str]
    apart: Sequence[str] = ()


def keep_in_files(folder: Path, device: torch.device) -> Callable[[Tensor], Recall]:
    """Put values into files of ``folder``: pages of them are in memory as long as there is room.

    What several blocks are given, such as a text, is written once.
    """
    put, known = in_files(folder), WeakIdKeyDictionary()

    def keep(value: Tensor) -> Recall:
        if value not in known:
            known[value] = put(value)
        written: Tensor = known[value]
        return lambda: written.to(device)

    return keep


@contextmanager
def blocks_alone(model: nn.Module, names: Sequence[str], alone: Alone) -> Iterator[None]:
    """Until the end, calls of ``model`` work its blocks ``names`` one at a time.

    Args:
        model: The network, on the CPU, without gradients.
        names: Its blocks; none is inside another.
        alone: How.
    """
    with ExitStack() as stack:
        stack.enter_context(on_device(alone.device, _always_there(model, names, alone.apart)))
        for name in names:
            block = model.get_submodule(name)
            # a method, so that a copy of the network has a copy's
            forward = functools.wraps(type(block).forward)(_forward_of(name, alone))
            block.forward = types.MethodType(forward, block)
            stack.callback(delattr, block, "forward")
        yield


def _always_there(model: nn.Module, names: Sequence[str], apart: Sequence[str]) -> list[Tensor]:
    """The parameters and buffers that are in none of the blocks, or in what is called apart."""
    blocks, others = (tuple(f"{name}." for name in some) for some in (names, apart))
    tensors = (*model.named_parameters(), *model.named_buffers())
    return [value for key, value in tensors if not key.startswith(blocks) or key.startswith(others)]


@contextmanager
def on_device(device: torch.device, tensors: Sequence[Tensor]) -> Iterator[None]:
    """``tensors`` are on ``device``; then they are where they were, as the very same tensors."""
    homes = [tensor.data for tensor in tensors]
    for tensor in tensors:
        tensor.data = tensor.data.to(device)
    try:
        yield
    finally:
        for tensor, home in zip(tensors, homes, strict=True):
            tensor.data = home


def _forward_of(name: str, alone: Alone) -> Callable[..., Any]:
    def forward(self: nn.Module, *inputs: Any, **named: Any) -> Any:
        leaves, tree = tree_flatten((inputs, named))
        places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        others = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        call = _BlockCall(name, self, alone, tree, others, places)
        if not torch.is_grad_enabled():
            with on_device(alone.device, call.tensors):
                return call.again([leaves[place] for place in places])
        # an input without a gradient makes no output that has one; the anchor does
        anchor = torch.empty(0, device=alone.device, requires_grad=True)
        values = [leaves[place] for place in places]
        tensors = _Recomputed.apply(call, anchor, *values)  # type: ignore[no-untyped-call]
        return call.output(tensors)

    return forward


@dataclass
class _BlockCall:
    """One call of one block.

    Attributes:
        name: Of the block.
        block: The module.
        alone: How it is worked.
        tree: The form of its arguments.
        leaves: The arguments that are no tensors; None in the places of those that are.
        places: Where the tensors go.
        form: The form of its output, its leaves that are no tensors, and the places of tensors.
    """

    name: str
    block: nn.Module
    alone: Alone
    tree: Any
    leaves: list[Any]
    places: list[int]
    form: tuple[Any, list[Any], list[int]] | None = field(default=None)

    @property
    def tensors(self) -> list[Tensor]:
        """What the block is made of."""
        return [*self.block.parameters(), *self.block.buffers()]

    def again(self, values: Sequence[Tensor]) -> Any:
        """The block's own output for tensors in the places of those that it was called with."""
        leaves = list(self.leaves)
        for place, value in zip(self.places, values, strict=True):
            leaves[place] = value
        inputs, named = tree_unflatten(leaves, self.tree)
        return type(self.block).forward(self.block, *inputs, **named)

    def flat(self, output: Any) -> list[Tensor]:
        """The tensors of an output, whose form is kept."""
        leaves, tree = tree_flatten(output)
        places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        self.form = tree, [None if isinstance(one, Tensor) else one for one in leaves], places
        return [leaves[place] for place in places]

    def output(self, tensors: Sequence[Tensor]) -> Any:
        """An output of this form."""
        assert self.form is not None
        tree, others, places = self.form
        leaves = list(others)
        for place, value in zip(places, tensors, strict=True):
            leaves[place] = value
        return tree_unflatten(leaves, tree)

    def hand_over(self) -> None:
        """Give the gradients away, and drop them."""
        for key, parameter in self.block.named_parameters():
            if parameter.grad is not None:
                self.alone.take(f"{self.name}.{key}", parameter)
                parameter.grad = None

    @contextmanager
    def with_gradients(self) -> Iterator[None]:
        """The block is on the device, and the wanted parameters get gradients."""
        named = list(self.block.named_parameters())
        learn = [one for key, one in named if f"{self.name}.{key}" in self.alone.wanted]
        with on_device(self.alone.device, self.tensors):
            for parameter in learn:
                parameter.requires_grad_(True)
            try:
                yield
            finally:
                for parameter in learn:
                    parameter.requires_grad_(False)
                    parameter.grad = None


class _Recomputed(torch.autograd.Function):
    """A block whose activations are computed again on the way back."""

    @staticmethod
    def forward(ctx: Any, call: _BlockCall, anchor: Tensor, *values: Tensor) -> Any:
        ctx.call = call
        ctx.set_materialize_grads(False)
        ctx.kept = [call.alone.keep(value) for value in values]
        with on_device(call.alone.device, call.tensors):
            tensors = call.flat(call.again(values))
        whole = [value for value in tensors if not value.is_floating_point()]
        ctx.mark_non_differentiable(*whole)
        return tuple(tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        call: _BlockCall = ctx.call
        needs = ctx.needs_input_grad[2:]
        values = [
            recall().detach().requires_grad_(wants)
            for recall, wants in zip(ctx.kept, needs, strict=True)
        ]
        ctx.kept = []
        with call.with_gradients():
            with torch.enable_grad():
                outputs = call.flat(call.again(values))
            pairs = [
                (output, gradient)
                for output, gradient in zip(outputs, gradients, strict=True)
                if gradient is not None and output.requires_grad
            ]
            del outputs
            if pairs:
                torch.autograd.backward([one for one, _ in pairs], [two for _, two in pairs])
            del pairs
            call.hand_over()
        return None, None, *(value.grad for value in values)
