"""One file for each target whose engines this runtime runs, found by the target's name.

``ort_cpu.py`` loads the engines of ``ort-cpu``. A file has two things:

    load(folder, info, threads) -> run   run: inputs by name (B, ...) -> the first output (B, ...)
    ANY_BATCH                            whether an engine serves every batch up to its largest

Neither is of use without the target's own runtime, which ``load`` imports and nothing else does.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import UnfitEngine

_REGISTERED: dict[str, str] = {}


def register(target: str, module: str) -> None:
    """Add the loader of a target that another package brings.

    Args:
        target: the target's name, as engine.json has it.
        module: the module with ``load`` and ``ANY_BATCH``, imported when an engine is loaded.
    """
    _REGISTERED[target] = module


def names() -> list[str]:
    """The targets whose engines this runtime runs."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    own = [file.stem.replace("_", "-") for file in files if not file.stem.startswith("_")]
    return [*own, *(name for name in _REGISTERED if name not in own)]


def why_none(target: str) -> str | None:
    """Why this runtime does not run the target's engines, or None where it does."""
    if target in names():
        return None
    known = ", ".join(names())
    return f"built for target '{target}', which this runtime does not run ({known})"


def find_loader(target: str) -> Any:
    """The loader's module. Raises UnfitEngine for a target whose engines are not run here."""
    reason = why_none(target)
    if reason is not None:
        raise UnfitEngine(reason)
    if target in _REGISTERED:
        return import_module(_REGISTERED[target])
    return import_module(f"{__name__}.{target.replace('-', '_')}")


def import_library(package: str, target: str) -> Any:
    """The runtime's module. Raises UnfitEngine when it is not installed."""
    try:
        return import_module(package)
    except ImportError as error:
        raise UnfitEngine(f"a '{target}' engine needs {package}: {error}") from None
