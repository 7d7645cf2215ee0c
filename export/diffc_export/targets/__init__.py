"""Targets: the runtimes that engines are built for, by name.

``target(name)`` imports one target's file and nothing else; ``names()`` is their order in tables;
``check_gpus`` says before the long work what only the build would find out.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from diffc_runtime.errors import unknown

if TYPE_CHECKING:
    from diffc_export.targets.base import Target

_MODULES = {
    "ort-cpu": "ort_cpu",
    "openvino": "openvino",
    "ort-cuda": "ort_cuda",
    "trt": "tensorrt",
    "trt-rtx": "trt_rtx",
}
_HIDDEN = {"fake": "fake"}
_REGISTERED: dict[str, str] = {}


def register(name: str, module: str) -> None:
    """Add a target of another package.

    Args:
        name: what ``--target`` calls it.
        module: the module whose ``TARGET`` it is, imported when the target is asked for.
    """
    _REGISTERED[name] = module


def names() -> list[str]:
    """Every target's name, CPU first."""
    return [*_MODULES, *_REGISTERED]


def target(name: str) -> Target:
    """The target called ``name``. Raises RequestError with the nearest names when none is."""
    own = {key: f"{__name__}.{module}" for key, module in (_MODULES | _HIDDEN).items()}
    module = (own | _REGISTERED).get(name)
    if module is None:
        raise unknown("target", name, names())
    chosen: Target = import_module(module).TARGET
    return chosen


def check_gpus(name: str, gpus: tuple[str, ...], precision: str) -> None:
    """Raise what building target ``name`` for ``gpus`` in ``precision`` would, building nothing.

    RequestError for a GPU that it cannot build for, UnavailableError for one that lacks the
    precision. A target that builds for no GPU in particular takes no notice of ``gpus``.
    """
    check = getattr(target(name), "check_gpus", None)
    if check is not None:
        check(gpus, precision)
