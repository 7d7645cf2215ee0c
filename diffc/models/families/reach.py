"""Traces one call: which modules run, and which inputs the output depends on.

A class may hold modules that its call uses only on request: GLIGEN's ``fuser`` blocks, a position
network. They have no share in importance, costs or training, so they must stay whole. Both
questions are answered on the meta device, without memory and without the weights' values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from diffc.models.groups import Group

Call = Callable[[nn.Module, Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True)
class CallTrace:
    """One call on the meta device.

    Attributes:
        output: The call's result, without values.
        modules: The names of the modules that ran.
        inputs: The names of the inputs that the output depends on.
    """

    output: Tensor
    modules: frozenset[str]
    inputs: frozenset[str]


_LATEST: WeakKeyDictionary[nn.Module, tuple[object, CallTrace]] = WeakKeyDictionary()
"""The latest call of each model, with what it depends on: the checks of a model and the search for
its groups make the same one."""


def trace_call(model: nn.Module, inputs: Mapping[str, Tensor], call: Call) -> CallTrace:
    """Call ``model`` on the meta device with inputs of the shapes of ``inputs``."""
    key = call, _signature(inputs.items()), _signature(model.named_parameters())
    if model not in _LATEST or _LATEST[model][0] != key:
        _LATEST[model] = key, _trace(model, inputs, call)
    return _LATEST[model][1]


def _signature(tensors: Iterable[tuple[str, Tensor]]) -> list[tuple[str, torch.Size, torch.dtype]]:
    return [(name, value.shape, value.dtype) for name, value in tensors]


def _trace(model: nn.Module, inputs: Mapping[str, Tensor], call: Call) -> CallTrace:
    tensors = {name: torch.empty_like(value, device="meta") for name, value in inputs.items()}
    wrapped = _CallModule(model, call)
    values = [*wrapped.named_parameters(), *wrapped.named_buffers()]
    shadows = {name: value.detach().to("meta") for name, value in values}
    sources = _InputTracker(tensors)
    with torch.no_grad(), torch.device("meta"), _record_modules(model) as modules, sources:
        output = torch.func.functional_call(wrapped, shadows, (tensors,))
    return CallTrace(output, frozenset(modules), sources.of(output))


def reached_groups(
    groups: Iterable[Group], model: nn.Module, inputs: Mapping[str, Tensor], call: Call
) -> list[Group]:
    """Return the groups whose layers a call runs."""
    modules = trace_call(model, inputs, call).modules
    return [group for group in groups if group.slices[0].module in modules]


def idle_modules(model: nn.Module, modules: frozenset[str]) -> list[str]:
    """Return the outermost modules with weights in which nothing ran.

    Args:
        model: The network.
        modules: The names of the modules that ran.
    """
    alive = {"", *modules}
    for name in modules:
        parts = name.split(".")
        alive.update(".".join(parts[:depth]) for depth in range(1, len(parts)))
    idle = [
        name
        for name, module in model.named_modules()
        if name not in alive and next(module.parameters(), None) is not None
    ]
    inside = set(idle)
    return [name for name in idle if name.rpartition(".")[0] not in inside]


class _CallModule(nn.Module):
    """A family's call as a module's forward pass, so that a call can replace its weights."""

    def __init__(self, model: nn.Module, call: Call) -> None:
        super().__init__()
        self.model, self._call = model, call

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self._call(self.model, inputs)


@contextmanager
def _record_modules(model: nn.Module) -> Iterator[set[str]]:
    """Collect the names of the modules that run inside the block."""
    names: set[str] = set()
    hooks = [
        module.register_forward_pre_hook(lambda _module, _inputs, name=name: names.add(name))
        for name, module in model.named_modules()
    ]
    try:
        yield names
    finally:
        for hook in hooks:
            hook.remove()


class _InputTracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows every tensor back to the inputs that it was computed from."""

    def __init__(self, inputs: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._names: MutableMapping[Tensor, frozenset[str]] = WeakIdKeyDictionary()
        for name, value in inputs.items():
            self._names[value] = frozenset([name])

    def of(self, *values: object) -> frozenset[str]:
        """Return the names of the inputs that the tensors in ``values`` were computed from."""
        tensors = (leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor))
        return frozenset().union(*(self._names.get(value, frozenset()) for value in tensors))

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        result = func(*args, **(kwargs or {}))
        names = frozenset() if _takes_shape_alone(func) else self.of(args, kwargs)
        if names:
            written = args[:1] if func._schema.is_mutable else ()
            for leaf in tree_leaves((result, written)):
                if isinstance(leaf, Tensor):
                    self._names[leaf] = names | self._names.get(leaf, frozenset())
        return result


def _takes_shape_alone(func: OpOverload) -> bool:
    """True if an operator reads its tensors' shapes and none of their values."""
    name = str(func.overloadpacket.__name__)
    return name.endswith("_like") or name.startswith("new_")
