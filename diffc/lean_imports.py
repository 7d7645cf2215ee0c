"""Lets diffusers import a model's class without the classes beside it.

Three packages of diffusers import all their files as soon as one is needed: a U-Net then brings
some fifty transformers, their adapters and scipy, which is a third of a short command's time. In a
process of diffc's own their ``__init__`` waits until somebody asks for a name that no imported file
has given. A caller's process, which imports ``diffc`` as a library, is left as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.abc import Loader
else:
    Loader = object  # importlib.abc takes longer to import than all that is needed of it

PACKAGES = frozenset(
    {
        "diffusers.models.autoencoders",
        "diffusers.models.transformers",
        "diffusers.models.unets",
    }
)


def defer_packages() -> None:
    """Make ``PACKAGES`` wait, from now on, where they have not been imported yet."""
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)


class _DeferredPackage(ModuleType):
    """A package whose files can be imported, and whose ``__init__`` runs when a name is missing."""

    def __getattr__(self, name: str) -> object:
        spec = self.__spec__
        waiting = spec.loader if spec is not None else None
        if spec is not None and isinstance(waiting, _DeferredLoader) and name[:2] != "__":
            self.__loader__ = spec.loader = waiting.loader
            waiting.loader.exec_module(self)
            return getattr(self, name)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


class _DeferredLoader(Loader):
    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _DeferredPackage(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing yet: ``_DeferredPackage`` runs the package's own code."""


class _Finder:
    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name in PACKAGES else None
        if spec is not None and spec.loader is not None:
            spec.loader = _DeferredLoader(spec.loader)
        return spec
