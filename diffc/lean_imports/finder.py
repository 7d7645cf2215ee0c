"""Which module is imported in which way."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

from diffc.lean_imports import dynamo
from diffc.lean_imports.blas import let_threads_sleep
from diffc.lean_imports.deferred import PACKAGES, DeferredLoader
from diffc.lean_imports.garbage import collect_rarely, rarely_until
from diffc.lean_imports.later import (
    TRANSFORMERS,
    LaterDistributions,
    classes_later,
    statistics_later,
)
from diffc.lean_imports.running import Around, Loader, RunningLoader, replaced_attribute

_SCHEDULERS = "diffusers.schedulers.scheduling_"
_HOOKS = "diffusers.hooks."


def make_imports_lean() -> None:
    """Import lean from now on; what has been imported already stays as it is."""
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)
        if "torch" not in sys.modules:
            collect_rarely()
        let_threads_sleep()


@contextmanager
def _distributions_later(module: ModuleType) -> Iterator[None]:
    from importlib import metadata

    with replaced_attribute(metadata, "packages_distributions", LaterDistributions):
        yield


_AROUND: dict[str, Around] = {
    "diffusers.utils.import_utils": _distributions_later,
    "diffusers.utils.torch_utils": dynamo.without_dynamo,
    "torch": rarely_until,
    "torch._compile": dynamo.leaving_out_later,
    "torch._dynamo": dynamo.hand_over,
    "transformers.utils.import_utils": _distributions_later,
    **dict.fromkeys(TRANSFORMERS, classes_later),
}


def _wrapping(name: str) -> Callable[[Loader], Loader] | None:
    """What the loader of a module is wrapped in; None: nothing."""
    if name in PACKAGES:
        return DeferredLoader
    if name in _AROUND:
        return partial(RunningLoader, around=_AROUND[name])
    if name.startswith(_HOOKS):
        return partial(RunningLoader, around=dynamo.disabling_later)
    if name.startswith(_SCHEDULERS):
        return partial(RunningLoader, around=statistics_later)
    return None


class _Finder:
    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        wrapping = _wrapping(name)
        spec = PathFinder.find_spec(name, path, target) if wrapping is not None else None
        if spec is not None and wrapping is not None and spec.loader is not None:
            spec.loader = wrapping(spec.loader)
        return spec
