"""CUDA's libraries, loaded from where Python packages keep them.

ONNX Runtime links cuBLAS, cuDNN and others by name, and the system's loader does not look into
``site-packages/nvidia``, where PyTorch's packages put them. The loader takes a library that is in
the process already by its name, so this module loads each one first, by its path. If the loader
finds a library by itself (a CUDA installation, LD_LIBRARY_PATH, a package that loaded it before),
that one is used.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

_NAMES = ("cudart", "nvrtc", "nvJitLink", "cublasLt", "cublas", "curand", "cufft", "cudnn*")
"""Libraries that ONNX Runtime's CUDA provider needs, each after the ones that it needs itself."""


@cache
def preload() -> tuple[str, ...]:
    """Load CUDA's libraries into this process, once.

    Without libraries nothing is done: the runtime that needs them then names the missing one.

    Returns:
        The paths of the libraries that were loaded from Python packages.
    """
    if not sys.platform.startswith("linux"):
        return ()
    loaded: list[str] = []
    waiting = packaged_libraries()
    while waiting:  # a library that needs another one is tried again after it
        failed = [path for path in waiting if not _load(path, loaded)]
        if len(failed) == len(waiting):
            break
        waiting = failed
    return tuple(loaded)


def packaged_libraries(roots: Iterable[str] | None = None) -> list[Path]:
    """Return the libraries in the ``nvidia`` packages on the import path, one for each name.

    Args:
        roots: Folders to search; by default the import path without the working directory.
    """
    libraries: dict[str, Path] = {}
    folders = [Path(entry) / "nvidia" for entry in (sys.path if roots is None else roots) if entry]
    for name in _NAMES:
        for folder in folders:
            for path in sorted(folder.glob(f"*/lib/lib{name}.so.*")):
                libraries.setdefault(path.name, path)
    return list(libraries.values())


def _load(path: Path, loaded: list[str]) -> bool:
    """Load the loader's own library of this name, else the file at ``path``; True if one loaded.

    The file's path is added to ``loaded``.
    """
    for name in (path.name, str(path)):
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        if name != path.name:
            loaded.append(name)
        return True
    return False
