"""Targets: the runtimes that engines are built for, by name.

``target(name)`` imports one target's file and nothing else; ``names()`` is their order in tables;
``check_gpus`` says before the long work what only the build would find out.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from diffc.errors import unknown

if TYPE_CHECKING:
    from diffc.targets.base import Target

_MODULES = {
    "ort-cpu": "ort_cpu",
    "openvino": "openvino",
    "ort-cuda": "ort_cuda",
    "trt": "tensorrt",
    "trt-rtx": "trt_rtx",
    "torch": "torch_target",
}
_HIDDEN = {"fake": "fake"}


def names() -> list[str]:
    """Every target's name, CPU first."""
    return list(_MODULES)


def target(name: str) -> Target:
    """The target called ``name``. Raises RequestError with the nearest names when none is."""
    module = (_MODULES | _HIDDEN).get(name)
    if module is None:
        raise unknown("target", name, names())
    found: Target = import_module(f"diffc.targets.{module}").TARGET
    return found


def check_gpus(name: str, gpus: tuple[str, ...], precision: str) -> None:
    """Raise what building target ``name`` for ``gpus`` in ``precision`` would, building nothing.

    RequestError for a GPU that it cannot build for, UnavailableError for one that lacks the
    precision. A target that builds for no GPU in particular takes no notice of ``gpus``.
    """
    check = getattr(target(name), "check_gpus", None)
    if check is not None:
        check(gpus, precision)
