"""The cost of widths: MACs and parameters of a network as a function of its units' widths.

The network runs once on the meta device. Every convolution, linear layer and attention product
leaves a term (coefficient x product of tensor dimensions); every parameter's element count is such
a product too. A dimension shrinks linearly with the widths of the groups that lie along it, so the
cost of any widths is arithmetic, and an allocator can ask for thousands of them in a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from diffc.models.branches import Branch, Unit
from diffc.models.groups import Group
from diffc.prune.plan import Cost

ModuleHook = Callable[[nn.Module, Any, Tensor], None]
Dim = tuple[str, int]
"""A tensor's name and one of its dimensions."""

KEPT = -1
"""In place of a tensor's dimension: whether the branch of that name is kept, 1 or 0."""

Widths = NDArray[np.int64]
"""How much of each unit is kept, (U,): channels of a group; 1 or 0 of a branch."""


@dataclass(frozen=True)
class Term:
    """coefficient x the product of ``dims``' present sizes."""

    coefficient: float
    dims: tuple[Dim, ...]
    layer: str
    kind: str  # conv, linear, bias, norm, attention; input, output: numbers, not products


class Dimensions:
    """The sizes of tensors' dimensions as a function of the units' widths.

    A dimension shrinks linearly with the widths of the groups that lie along it. A branch has a
    dimension of its own, ``(name, KEPT)``: 1, or 0 where the branch is left out.
    """

    def __init__(
        self,
        dims: Iterable[Dim],
        shapes: Mapping[str, tuple[int, ...]],
        units: Sequence[Unit],
    ) -> None:
        switches = {(unit.name, KEPT) for unit in units if isinstance(unit, Branch)}
        self.dims = sorted({*dims, *switches})
        self.place = {dim: i for i, dim in enumerate(self.dims)}
        sizes = [1 if dim in switches else shapes[dim[0]][dim[1]] for dim in self.dims]
        self._full = np.array(sizes, dtype=np.float64)
        self._dense = np.array([unit.size for unit in units], dtype=np.int64)
        self._fan = np.zeros((len(self.dims), len(units)))  # positions that one channel takes
        for column, unit in enumerate(units):
            if isinstance(unit, Branch):
                self._fan[self.place[unit.name, KEPT], column] = 1
                continue
            for piece in unit.slices:
                row = self.place.get((piece.tensor, piece.dim))
                if row is not None:
                    self._fan[row, column] += piece.index.shape[1]

    def sizes(self, widths: Widths) -> NDArray[np.float64]:
        """The present size of every dimension, (D,) in the order of ``dims``."""
        sizes: NDArray[np.float64] = self._full - self._fan @ (self._dense - widths)
        return sizes


def switches(units: Iterable[Unit], module: str) -> tuple[Dim, ...]:
    """The dimensions of the branches that ``module`` goes with: a 0 among them leaves it out."""
    return tuple(
        (unit.name, KEPT) for unit in units if isinstance(unit, Branch) and unit.covers(module)
    )


class CostModel:
    """The cost of any widths of ``units`` in a network; see ``cost_model``."""

    def __init__(
        self, terms: Sequence[Term], shapes: Mapping[str, tuple[int, ...]], units: Sequence[Unit]
    ) -> None:
        self.units = list(units)
        self.groups = [unit for unit in units if isinstance(unit, Group)]
        self.branches = [unit for unit in units if isinstance(unit, Branch)]
        self.dense = np.array([unit.size for unit in units], dtype=np.int64)
        self.terms = [
            replace(term, dims=(*term.dims, *switches(self.branches, term.layer))) for term in terms
        ]
        dims = {dim for term in terms for dim in term.dims}
        dims |= {(piece.tensor, piece.dim) for group in self.groups for piece in group.slices}
        self._dimensions = Dimensions(dims, shapes, units)
        self._macs = self._products([t for t in self.terms if t.kind in _MACS])
        self._paper = self._products([t for t in self.terms if t.kind in _PAPER])
        self._inputs = self._products([t for t in self.terms if t.kind == "input"])
        self._outputs = self._products([t for t in self.terms if t.kind == "output"])
        parameters, self._fixed_params = self._parameter_terms(shapes)
        self._params = self._products(parameters)

    def macs(self, widths: Widths) -> float:
        """Multiply-accumulates of one forward pass of one image, attention's products included."""
        return self._macs(self._dimensions.sizes(widths))

    def params(self, widths: Widths) -> float:
        """The number of parameters."""
        return self._params(self._dimensions.sizes(widths)) + self._fixed_params

    def memory(self, widths: Widths) -> float:
        """Numbers in memory: every parameter, and what the layer with the most takes and gives.

        An estimate from below for one image: what waits for a later layer is not counted.
        """
        sizes = self._dimensions.sizes(widths)
        moving = self._inputs.each(sizes) + self._outputs.each(sizes)
        return self.params(widths) + float(moving.max(initial=0.0))

    def cost(self, widths: Widths) -> Cost:
        """All figures at once."""
        sizes = self._dimensions.sizes(widths)
        params = round(self._params(sizes) + self._fixed_params)
        return Cost(self._macs(sizes), self._paper(sizes), params)

    def layer_macs(self, widths: Widths) -> dict[str, float]:
        """MACs by layer."""
        sizes, place = self._dimensions.sizes(widths), self._dimensions.place
        total: dict[str, float] = {}
        for term in self._macs.terms:
            value = term.coefficient * float(np.prod([sizes[place[dim]] for dim in term.dims]))
            total[term.layer] = total.get(term.layer, 0.0) + value
        return total

    def _products(self, terms: Sequence[Term]) -> _Products:
        return _Products(terms, self._dimensions.place)

    def _parameter_terms(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[list[Term], float]:
        place = self._dimensions.place
        terms, fixed = [], 0.0
        for name, shape in shapes.items():
            cut = tuple((name, d) for d in range(len(shape)) if (name, d) in place)
            rest = float(np.prod([s for d, s in enumerate(shape) if (name, d) not in cut]))
            cut += switches(self.branches, name.rpartition(".")[0])
            if cut:
                terms.append(Term(rest, cut, name, "params"))
            else:
                fixed += rest
        return terms, fixed


_MACS = ("conv", "linear", "attention")
# torch-pruning's counter, which the paper's figures come from: biases and LayerNorm are counted,
# attention's matrix products are not.
_PAPER = ("conv", "linear", "bias", "norm")


class _Products:
    """The sum of many terms, as one gather and one product over arrays."""

    def __init__(self, terms: Sequence[Term], place: Mapping[Dim, int]) -> None:
        self.terms = list(terms)
        most = max((len(term.dims) for term in terms), default=0)
        one = len(place)  # the place of a constant 1, which pads shorter terms
        self._index = np.full((len(terms), most), one, dtype=np.int64)
        for row, term in enumerate(terms):
            self._index[row, : len(term.dims)] = [place[dim] for dim in term.dims]
        self._coefficient = np.array([term.coefficient for term in terms])

    def __call__(self, sizes: NDArray[np.float64]) -> float:
        padded = np.append(sizes, 1.0)
        return float(self._coefficient @ padded[self._index].prod(axis=1))

    def each(self, sizes: NDArray[np.float64]) -> NDArray[np.float64]:
        """(T,) every term by itself."""
        padded = np.append(sizes, 1.0)
        values: NDArray[np.float64] = self._coefficient * padded[self._index].prod(axis=1)
        return values


def cost_model(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    call: Callable[[nn.Module, Mapping[str, Tensor]], Tensor],
    units: Sequence[Unit],
) -> CostModel:
    """The cost model of ``model`` at the shapes of ``inputs`` (batch 1; meta device will do)."""
    terms: list[Term] = []
    groups = [unit for unit in units if isinstance(unit, Group)]
    whole_heads = {group.heads_of for group in groups if group.heads_of is not None}
    with torch.no_grad(), _recording(model, terms, whole_heads):
        call(model, inputs)
    shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
    cut = {piece.tensor for group in groups for piece in group.slices} - shapes.keys()
    if cut:
        buffers = dict(model.named_buffers())
        # a cut buffer has dimensions but no parameters
        return CostModel(terms, shapes | {n: tuple(buffers[n].shape) for n in cut}, units)
    return CostModel(terms, shapes, units)


@contextmanager
def _recording(model: nn.Module, terms: list[Term], whole_heads: Set[str]) -> Iterator[None]:
    hooks = {
        name: _layer_hook(name, terms)
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear | nn.LayerNorm)
    }
    with (
        module_hooks(model, hooks) as attentions,
        _AttentionProducts(model, attentions, terms, whole_heads),
    ):
        yield


@contextmanager
def module_hooks(model: nn.Module, hooks: Mapping[str, ModuleHook]) -> Iterator[list[str]]:
    """Call hooks after their modules, and follow which attention is running.

    Args:
        model: The network.
        hooks: Name of a module -> its hook.

    Yields:
        The names of the modules with ``to_q`` that run now, outermost first.
    """
    running: list[str] = []
    handles = []
    for name, module in model.named_modules():
        if name in hooks:
            handles.append(module.register_forward_hook(hooks[name]))
        if hasattr(module, "to_q"):
            handles.append(module.register_forward_pre_hook(partial(_enter, running, name)))
            handles.append(module.register_forward_hook(partial(_leave, running)))
    try:
        yield running
    finally:
        for handle in handles:
            handle.remove()


def _enter(running: list[str], name: str, _module: nn.Module, _inputs: object) -> None:
    running.append(name)


def _leave(running: list[str], _module: nn.Module, _inputs: object, _output: object) -> None:
    running.pop()


def _layer_hook(name: str, terms: list[Term]) -> ModuleHook:
    weight = f"{name}.weight"

    def record(module: nn.Module, inputs: Any, output: Tensor) -> None:
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            places = output.numel() / output.shape[1]
            kernel = float(np.prod(module.kernel_size))
            depthwise = module.groups > 1 and module.groups == module.in_channels
            dims: tuple[Dim, ...] = ((weight, 0),) if depthwise else ((weight, 0), (weight, 1))
            terms.append(Term(places * kernel, dims, name, "conv"))
            given = inputs[0].numel() / inputs[0].shape[1]
            terms.append(Term(given, dims[-1:], name, "input"))
            terms.append(Term(places, ((weight, 0),), name, "output"))
            if module.bias is not None:
                terms.append(Term(places, ((weight, 0),), name, "bias"))
        elif isinstance(module, nn.Linear):
            places = output.numel() / output.shape[-1]
            terms.append(Term(places, ((weight, 0), (weight, 1)), name, "linear"))
            terms.append(Term(places, ((weight, 1),), name, "input"))
            terms.append(Term(places, ((weight, 0),), name, "output"))
            if module.bias is not None:
                terms.append(Term(1.0, ((weight, 0),), name, "bias"))
        elif isinstance(module, nn.LayerNorm) and module.elementwise_affine:
            places = output.numel() / output.shape[-1]
            terms.append(Term(2 * places, ((weight, 0),), name, "norm"))

    return record


class _AttentionProducts(TorchFunctionMode):
    """Notes the matrix products of every attention, inside a module with ``to_q``.

    Softmax attention: q k^T and p v, each B x queries x keys x (heads x head size). Text and image
    tokens of a joint attention arrive here already concatenated, and their projections are equally
    wide. Linear attention (Sana): see ``_linear_attention_terms``.
    """

    def __init__(
        self, model: nn.Module, stack: list[str], terms: list[Term], whole_heads: Set[str]
    ) -> None:
        super().__init__()
        self.model, self.stack, self.terms = model, stack, terms
        self.whole_heads = whole_heads

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.stack and func is torch.nn.functional.scaled_dot_product_attention:
            query, key = args[:2] if args else (kwargs["query"], kwargs["key"])
            name = self.stack[-1]
            products = query.shape[0] * query.shape[-2] * key.shape[-2]
            for leaf in ("to_q", "to_v"):
                weight = f"{name}.{leaf}.weight"
                self.terms.append(Term(float(products), ((weight, 0),), name, "attention"))
        elif self.stack and func is torch.matmul:
            name = self.stack[-1]
            self.terms += _linear_attention_terms(name, args[0], args[1], name in self.whole_heads)
        return func(*args, **kwargs)


def _linear_attention_terms(name: str, a: Tensor, b: Tensor, whole_heads: bool) -> list[Term]:
    """One product of linear attention: v k^T, or the result with q.

    Over H heads of size d and S tokens both are H (d + 1) d S multiply-accumulates; the one is the
    row of ones that is summed along with v. With W = H d the width of a projection, that is
    (d + 1) S W while whole heads are cut (d stays), else S W + (S / H) W W (H stays).
    """
    heads, size = a.shape[1], a.shape[2] - 1
    tokens = float(a.numel() * b.shape[-1] / (heads * (size + 1) * size))
    query, value = (f"{name}.to_q.weight", 0), (f"{name}.to_v.weight", 0)
    if whole_heads:
        return [Term((size + 1) * tokens, (query,), name, "attention")]
    return [
        Term(tokens, (query,), name, "attention"),
        Term(tokens / heads, (query, value), name, "attention"),
    ]
