"""torch._dynamo waits until a model is compiled; what it has to know by then is handed over to it.

diffusers asks it at import to take some classes into its graphs (``allow_in_graph``) and to leave
some functions out (``torch.compiler.disable``); torch leaves functions out the same way at their
first call. Before torch._dynamo has been imported nothing is compiled, so that these are plain
classes and functions until then.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from types import FunctionType, ModuleType
from typing import TypeVar

from diffc.lean_imports.running import given_imports, replaced_attribute

Kind = TypeVar("Kind")
NAME = "torch._dynamo"
_STATE = "__dynamo_disable"
"""Where torch keeps, at a function, what it calls in the function's place."""
_allowed: list[object] = []
_left_out: list[FunctionType] = []


@contextmanager
def hand_over(dynamo: ModuleType) -> Iterator[None]:
    """While torch._dynamo runs nothing changes; then it gets what waited for it."""
    yield
    for function in _left_out:
        vars(function).pop(_STATE, None)
    for one in _allowed:
        dynamo.allow_in_graph(one)
    _left_out.clear()
    _allowed.clear()


@contextmanager
def without_dynamo(module: ModuleType) -> Iterator[None]:
    """Let ``module`` run without torch._dynamo: what it tells it is kept for later."""
    if NAME in sys.modules:
        yield
        return
    with given_imports(module, {NAME: _Dynamo(NAME)}):
        yield


@contextmanager
def disabling_later(module: ModuleType) -> Iterator[None]:
    """While ``module`` runs, ``torch.compiler.disable`` does not import torch._dynamo."""
    compiler = import_module("torch.compiler")
    lean = NAME not in sys.modules
    with replaced_attribute(compiler, "disable", _disable_later) if lean else nullcontext():
        yield


@contextmanager
def leaving_out_later(module: ModuleType) -> Iterator[None]:
    """After torch._compile has run, its decorator does not import torch._dynamo at a call."""
    yield
    disable = module._disable_dynamo

    def _disable_dynamo(fn: object = None, recursive: bool = True) -> object:
        if not isinstance(fn, FunctionType):
            return disable(fn, recursive)
        vars(fn).pop(_STATE, None)  # functools.wraps copies another function's
        decorated = disable(fn, recursive)
        if NAME not in sys.modules:
            vars(fn)[_STATE] = fn
            _left_out.append(fn)
        return decorated

    vars(module)["_disable_dynamo"] = _disable_dynamo


def _disable_later(
    fn: object = None, recursive: bool = True, *, reason: str | None = None
) -> object:
    """What ``torch.compiler.disable`` gives, by the decorator that torch uses for itself."""
    if fn is None:
        return lambda given: _disable_later(given, recursive, reason=reason)
    if isinstance(fn, FunctionType):
        decorated: object = import_module("torch._compile")._disable_dynamo(fn, recursive)
        return decorated
    return import_module(NAME).disable(fn, recursive, reason=reason)


class _Dynamo(ModuleType):
    """What a module gets that imports torch._dynamo for ``allow_in_graph``."""

    @staticmethod
    def allow_in_graph(one: Kind) -> Kind:
        if NAME in sys.modules:
            import_module(NAME).allow_in_graph(one)
        else:
            _allowed.append(one)
        return one

    def __getattr__(self, name: str) -> object:
        return getattr(import_module(NAME), name)
