"""Classes that are imported at their first use, for modules that seldom use them.

diffusers' loaders name two classes of transformers, for adapters and single files; its quantisers
name one in an annotation; its schedulers name two modules of scipy, for one kind of spacing each.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

from diffc.lean_imports.running import given_imports

TRANSFORMERS = {
    "diffusers.loaders.lora_base": "transformers",
    "diffusers.loaders.single_file_utils": "transformers",
    "diffusers.quantizers.pipe_quant_config": "transformers.utils.quantization_config",
}
"""The modules of diffusers that use a class of transformers in functions alone, and its module."""


@contextmanager
def classes_later(module: ModuleType) -> Iterator[None]:
    """Let ``module`` run without the module of transformers that ``TRANSFORMERS`` names."""
    name = TRANSFORMERS[module.__name__]
    if name in sys.modules:
        yield
        return
    with given_imports(module, {name: _Later(name)}):
        yield


@contextmanager
def statistics_later(module: ModuleType) -> Iterator[None]:
    """Let ``module`` run without the modules of scipy that it names."""
    scipy = _Scipy("scipy")
    with given_imports(module, {"scipy": scipy, "scipy.stats": scipy}):
        yield


class _Scipy(ModuleType):
    """scipy, whose two modules that schedulers name are imported at their first use."""

    def __getattr__(self, name: str) -> object:
        if name in ("integrate", "stats"):
            return _LaterModule(f"scipy.{name}")
        return getattr(import_module("scipy"), name)


class _LaterModule(ModuleType):
    def __getattr__(self, name: str) -> object:
        return getattr(import_module(self.__name__), name)


class _Later(ModuleType):
    """A module that gives a class for every name, which stands for the class of that name."""

    def __getattr__(self, name: str) -> type:
        if name[:2] == "__":
            raise AttributeError(name)
        return _LaterClass(name, (), {"__module__": self.__name__})


class _LaterClass(type):
    """Stands for a class until it is used; then the class itself answers."""

    def _own(cls) -> type:
        own: type = getattr(import_module(cls.__module__), cls.__name__)
        return own

    def __call__(cls, *values: object, **named: object) -> object:
        return cls._own()(*values, **named)

    def __getattr__(cls, name: str) -> object:
        if name[:2] == "__":
            raise AttributeError(name)
        return getattr(cls._own(), name)

    def __instancecheck__(cls, instance: object) -> bool:
        return cls.__module__ in sys.modules and isinstance(instance, cls._own())

    def __subclasscheck__(cls, subclass: type) -> bool:
        return cls.__module__ in sys.modules and issubclass(subclass, cls._own())


class LaterDistributions(Mapping[str, list[str]]):
    """What ``importlib.metadata.packages_distributions`` gives, read when it is asked.

    It reads the files of every installed package, and diffusers and transformers, which ask for it
    at import, use it for packages that are seldom installed.
    """

    def __init__(self) -> None:
        self._read: Mapping[str, list[str]] | None = None

    def _all(self) -> Mapping[str, list[str]]:
        from importlib.metadata import packages_distributions

        if self._read is None:
            self._read = packages_distributions()
        return self._read

    def __getitem__(self, name: str) -> list[str]:
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())
