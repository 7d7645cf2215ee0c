"""CUDA's libraries, loaded from where Python packages keep them.

ONNX Runtime links cuBLAS, cuDNN and others by name, and the system's loader does not look into
``site-packages/nvidia``, where PyTorch's packages put them. A library that is loaded already is
taken by its name, so each is loaded here first, by its path. One that the loader finds by itself (a
CUDA installation, LD_LIBRARY_PATH, another package that was here before) is left as it is.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

_NAMES = ("cudart", "nvrtc", "nvJitLink", "cublasLt", "cublas", "curand", "cufft", "cudnn*")
"""What ONNX Runtime's CUDA provider links or opens, and what those need, in that order."""


@cache
def preload() -> tuple[str, ...]:
    """Load CUDA's libraries for this process, once; the paths of those that packages brought.

    Where there are none nothing is done: the runtime that needs them then says which it lacks.
    """
    if not sys.platform.startswith("linux"):
        return ()
    loaded: list[str] = []
    waiting = packaged()
    while waiting:  # one that needs another is tried again after it
        left = [path for path in waiting if not _load(path, loaded)]
        if len(left) == len(waiting):
            break
        waiting = left
    return tuple(loaded)


def packaged(roots: Iterable[str] | None = None) -> list[Path]:
    """The libraries in the ``nvidia`` packages on the import path, one for each name.

    roots: folders to look in; the import path's by default, without the working directory.
    """
    found: dict[str, Path] = {}
    folders = [Path(entry) / "nvidia" for entry in (sys.path if roots is None else roots) if entry]
    for name in _NAMES:
        for folder in folders:
            for path in sorted(folder.glob(f"*/lib/lib{name}.so.*")):
                found.setdefault(path.name, path)
    return list(found.values())


def _load(path: Path, loaded: list[str]) -> bool:
    """Whether the library is in this process now: the loader's own, else the one at ``path``."""
    for name in (path.name, str(path)):
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        if name != path.name:
            loaded.append(name)
        return True
    return False
