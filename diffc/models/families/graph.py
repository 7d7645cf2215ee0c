"""Groups of a convolutional network, from torch-pruning's dependency graph.

torch-pruning traces the network once through autograd (the meta device will do) and knows which
layers an output channel reaches, through additions, concatenations, splits and reshapes. diffc uses
only that: it turns the graph's groups into explicit positions (``Group``). It does not use
torch-pruning's pruner, whose selection is averaged over normalisation groups.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diffc.errors import InputError
from diffc.models.groups import Group, Role, Slice

if TYPE_CHECKING:
    from torch_pruning import DependencyGraph
    from torch_pruning.dependency import Group as Dependents

Call = Callable[[nn.Module, Mapping[str, Tensor]], Tensor]


def trace_groups(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    call: Call,
    *,
    fixed: Collection[str] = (),
) -> list[Group]:
    """Return every group of output channels of ``model``'s convolutions and linear layers.

    Args:
        model: The network.
        inputs: One example batch, on the model's device (``meta`` included).
        call: Calls the model with the inputs.
        fixed: The names of layers whose output channels may not change (the output, and attention's
            inner projections, which a family handles itself).

    Raises:
        InputError: A layer passes channels on in a way that cannot be followed.
    """
    graph = _graph(model, inputs, call)
    names = {module: name for name, module in model.named_modules()}
    fixed_modules = {model.get_submodule(name) for name in fixed}
    groups: list[Group] = []
    seen: set[nn.Module] = set()
    for root in _roots(graph, names):
        if root in seen or root in fixed_modules:
            continue
        prune_out = graph.get_pruner_of_module(root).prune_out_channels
        reached = graph.get_pruning_group(
            root, prune_out, list(range(graph.get_out_channels(root)))
        )
        producers = {
            d.target.module for d, _ in reached if graph.is_out_channel_pruning_fn(d.handler)
        }
        seen |= producers
        if not producers & fixed_modules:
            groups.append(_group(graph, root, reached, names))
    order = {name: place for place, name in enumerate(names.values())}
    return sorted(groups, key=lambda group: order[group.name])


def _graph(model: nn.Module, inputs: Mapping[str, Tensor], call: Call) -> DependencyGraph:
    import torch_pruning as tp

    graph = tp.DependencyGraph()
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")  # it warns of every free parameter and unknown operation
        return graph.build_dependency(
            model,
            example_inputs=dict(inputs),
            forward_fn=call,
            ignored_layers=[],
            unwrapped_parameters=[],
            verbose=False,
        )


def _roots(graph: DependencyGraph, names: Mapping[nn.Module, str]) -> list[nn.Module]:
    """Return the layers from which groups start, narrow ones first.

    A time embedding's projection to a scale and a shift is twice as wide as the layer that it
    scales: a channel of the group is one of the narrower layer, and two rows of the projection.
    """
    layers = [
        module
        for module in graph.module2node
        if isinstance(module, nn.Conv2d | nn.Linear) and module in names
    ]
    return sorted(layers, key=graph.get_out_channels)


def _group(
    graph: DependencyGraph, root: nn.Module, reached: Dependents, names: Mapping[nn.Module, str]
) -> Group:
    size = graph.get_out_channels(root)
    slices: list[Slice] = []
    runs = 1
    for item in reached:
        module, handler = item.dep.target.module, item.dep.handler
        if module not in names:
            continue  # an operation without parameters
        index = _positions(item.idxs, item.root_idxs, size, names[module])
        is_out = graph.is_out_channel_pruning_fn(handler)
        slices += _slices(names[module], module, is_out, index)
        if isinstance(module, nn.GroupNorm):
            runs = math.lcm(runs, module.num_groups)
    produced = {piece.module for piece in slices if piece.role is Role.OUT}
    first = next(name for name in names.values() if name in produced)
    return Group(name=first, size=size, slices=tuple(slices), runs=runs)


def _positions(positions: list[int], roots: list[int], size: int, where: str) -> NDArray[np.int64]:
    """Return int64 (size, k), from parallel lists of positions and of their channels."""
    order = np.lexsort((positions, roots))
    counts = np.bincount(np.asarray(roots), minlength=size)
    if len(counts) != size or counts.min() != counts.max():
        raise InputError(
            f"diffc cannot follow the channels of '{where}'",
            hint="the model has blocks of a kind that diffc does not know how to cut",
        )
    return np.asarray(positions, dtype=np.int64)[order].reshape(size, -1)


def _slices(name: str, module: nn.Module, is_out: bool, index: NDArray[np.int64]) -> list[Slice]:
    if isinstance(module, nn.GroupNorm | nn.LayerNorm | nn.RMSNorm):
        return [
            Slice(f"{name}.{leaf}", 0, Role.NORM, index)
            for leaf in ("weight", "bias")
            if getattr(module, leaf, None) is not None
        ]
    if isinstance(module, nn.Embedding):
        return [Slice(f"{name}.weight", 1, Role.OUT, index)]
    if not isinstance(module, nn.Conv2d | nn.Linear):
        raise InputError(
            f"diffc cannot cut '{name}', a {type(module).__name__}",
            hint="the model has layers of a kind that diffc does not know how to cut",
        )
    if not is_out:
        return [Slice(f"{name}.weight", 1, Role.IN, index)]
    rows = [Slice(f"{name}.weight", 0, Role.OUT, index)]
    return rows + ([Slice(f"{name}.bias", 0, Role.OUT, index)] if module.bias is not None else [])
