"""The last layer, solved in closed form for what the network should give.

A student that predicted epsilon has to predict v. Its features know the image already; what reads
them out does not. The last layer is linear, so the one with the least mean square over some rows is
the solution of a linear system of as many unknowns as the layer has inputs. A report says the error
before and after.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diffc.data.randomness import keyed_generator
from diffc.data.sharding import local, whole, write_whole
from diffc.models.layer_rows import input_rows, output_rows, positions

RIDGE = 1e-4
"""Pull to the layer's own weights, in units of the mean square of its inputs."""
ENOUGH = 64
"""Equations for each unknown: more of them cost time and change nothing that training leaves."""


def fit_readout(
    model: nn.Module, batches: Sequence[Any], output: Callable[[Any], Tensor]
) -> tuple[float, float] | None:
    """Change the last layer of ``model`` in place.

    Args:
        model: A network whose output is that of its last linear layer, or convolution.
        batches: Rows, each with its ``target`` (B, ...).
        output: Runs the model on some rows.

    Returns:
        The mean square of the error before and after; None where the output of the network is not
        a layer's own, and nothing was changed.
    """
    with torch.no_grad():
        layer = last_layer(model, lambda: output(batches[0]))
        if layer is None:
            return None
        system = _System(layer, batches=len(batches))
        handle = layer.register_forward_hook(lambda _layer, given, _out: system.catch(given[0]))
        try:
            for batch in batches:
                system.add(output(batch).float(), batch.target)
        finally:
            handle.remove()
        return system.solve()


def last_layer(model: nn.Module, output: Callable[[], Tensor]) -> nn.Conv2d | nn.Linear | None:
    """Return the layer that is called last, where its output is the network's; else None."""
    called: list[tuple[nn.Module, Tensor]] = []

    def note(layer: nn.Module, _given: Any, result: Tensor) -> None:
        called.append((layer, result))

    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(note) for layer in layers]
    try:
        given = output()
    finally:
        for handle in handles:
            handle.remove()
    if not called:
        return None
    layer, result = called[-1]
    same = result.shape == given.shape and torch.equal(result, given.to(result.dtype))
    plain = isinstance(layer, nn.Linear) or (
        isinstance(layer, nn.Conv2d)
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
    )
    return layer if same and plain and isinstance(layer, nn.Conv2d | nn.Linear) else None


@dataclass
class _System:
    """The normal equations of one layer, gathered batch by batch.

    Rows of the system are the layer's inputs at one place of one output, and 1 for the bias.
    """

    layer: nn.Conv2d | nn.Linear
    batches: int
    inputs: Tensor | None = None
    gram: Tensor | None = None
    right: Tensor | None = None
    square: float = 0.0
    error: float = 0.0
    count: int = 0

    def catch(self, given: Tensor) -> None:
        """Remember what the layer was given."""
        self.inputs = given

    def add(self, output: Tensor, target: Tensor) -> None:
        """Take in the rows of the last call."""
        assert self.inputs is not None
        every = torch.arange(positions(self.layer, output), device=output.device)
        given, wanted = (output_rows(self.layer, value, every) for value in (output, target))
        rows = input_rows(self.layer, self.inputs.float(), output, every, slice(None))
        some = self._some(len(rows), rows.shape[1])
        rows, wanted, given = (value[some].double() for value in (rows, wanted, given))
        self.gram = rows.T @ rows + (0.0 if self.gram is None else self.gram)
        self.right = rows.T @ wanted + (0.0 if self.right is None else self.right)
        self.square += float(wanted.square().sum())
        self.error += float((given - wanted).square().sum())
        self.count += wanted.numel()

    def solve(self) -> tuple[float, float]:
        """Write the weights; returns the mean square before and after."""
        assert self.gram is not None and self.right is not None
        own = self._own()
        gram, right = self.gram, self.right
        pull = RIDGE * gram.diagonal().mean() * torch.eye(len(gram)).to(gram)
        best = torch.linalg.solve(gram + pull, right + pull @ own)
        weight = self.layer.weight
        columns = weight.numel() // weight.shape[0]
        _write(weight, best[:columns].T.reshape(weight.shape))
        if self.layer.bias is not None:
            _write(self.layer.bias, best[-1])
        left = self.square - 2 * float((best * right).sum()) + float((best * (gram @ best)).sum())
        return self.error / self.count, max(0.0, left) / self.count

    def _some(self, rows: int, unknowns: int) -> Tensor:
        """Which rows of a batch are taken, the same ones every time."""
        count = min(rows, max(1, ENOUGH * unknowns // self.batches))
        return torch.randperm(rows, generator=keyed_generator(rows))[:count]

    def _own(self) -> Tensor:
        weight = whole(self.layer.weight).flatten(1).T.double()
        bias = [] if self.layer.bias is None else [whole(self.layer.bias).double()[None]]
        return torch.cat([weight, *bias])


def _write(parameter: Tensor, value: Tensor) -> None:
    """The value, in place; the first process's where the parameter is sharded."""
    if local(parameter) is parameter:
        parameter.copy_(value)
    else:
        write_whole(parameter, value)
