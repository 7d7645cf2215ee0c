"""What surrounds a module's code while it runs: imports of our own, or an attribute of our own.

RunningLoader     runs a module's code inside a context manager
replaced_attribute, given_imports   two such contexts
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.abc import Loader as Loader  # the other files take it from here
else:
    Loader = object  # importlib.abc takes longer to import than all that is needed of it

Around = Callable[[ModuleType], AbstractContextManager[None]]
"""Takes a module that is about to run; its code runs inside the context."""


class RunningLoader(Loader):
    """Loads a module as its own loader does, with the module's code inside a context."""

    def __init__(self, loader: Loader, around: Around) -> None:
        self.loader, self._around = loader, around

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        give_back_loader(module, self.loader)
        with self._around(module):
            self.loader.exec_module(module)


def give_back_loader(module: ModuleType, loader: Loader) -> None:
    """Let ``module`` name its own loader, from which its source and its data are read."""
    module.__loader__ = loader
    if module.__spec__ is not None:
        module.__spec__.loader = loader


@contextmanager
def replaced_attribute(owner: object, name: str, value: object) -> Iterator[None]:
    """Put ``value`` in the place of an attribute, and the attribute back afterwards."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def given_imports(module: ModuleType, given: Mapping[str, ModuleType]) -> Iterator[None]:
    """Answer the import statements of ``module``, and of no other, with modules of our own.

    Args:
        module: The module that is about to run.
        given: What its statements get, by the absolute name that they import. Whoever says
            ``import a.b`` gets what is given for ``a.b`` as its ``a``.
    """
    names = dict(vars(builtins))

    def import_given(
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        if level == 0 and name in given:
            return given[name]
        return builtins.__import__(name, globals, locals, fromlist or (), level)

    names["__import__"] = import_given
    vars(module)["__builtins__"] = names
    try:
        yield
    finally:  # the module's functions keep this dictionary of builtins
        names["__import__"] = builtins.__import__
        vars(module)["__builtins__"] = vars(builtins)
