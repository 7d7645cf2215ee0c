"""Modules whose own code waits until code asks for a name that they do not have yet.

Some packages of diffusers import all their files as soon as one of them is needed; the files can be
imported on their own.
"""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from types import ModuleType

from diffc.lean_imports.running import Loader, give_back_loader

PACKAGES = frozenset(
    {
        "diffusers.hooks",
        "diffusers.models.autoencoders",
        "diffusers.models.transformers",
        "diffusers.models.unets",
    }
)
"""Packages whose files do not need the package's own code."""


class DeferredLoader(Loader):
    """Loads a module without running its code."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _DeferredModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing yet: ``_DeferredModule`` runs the module's own code."""


class _DeferredModule(ModuleType):
    """A module whose code runs when a name is missing."""

    def __getattr__(self, name: str) -> object:
        loader = self.__spec__.loader if self.__spec__ is not None else None
        if name[:2] == "__" or not isinstance(loader, DeferredLoader):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        give_back_loader(self, loader.loader)
        loader.loader.exec_module(self)
        return getattr(self, name)
