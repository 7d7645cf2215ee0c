"""The calls of the CUDA runtime that TensorRT needs: allocate, copy, one stream; through ctypes.

TensorRT's Python package takes device pointers and allocates nothing. With this module the
runtime needs no second CUDA package.
"""

from __future__ import annotations

import ctypes
import site
from functools import cache
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from .errors import UnfitEngine

_TO_DEVICE, _TO_HOST = 1, 2


@cache
def library() -> Any:
    """Load libcudart: the system's, or a pip package's.

    Raises:
        UnfitEngine: There is none.
    """
    names = ["libcudart.so.13", "libcudart.so.12", "libcudart.so"]
    folders = [Path(folder) / "nvidia" for folder in site.getsitepackages()]
    bundled = [str(p) for folder in folders for p in sorted(folder.glob("**/libcudart.so.1[23]"))]
    for name in [*names, *bundled]:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise UnfitEngine("a TensorRT engine needs the CUDA runtime: no libcudart was found here")


def _call(name: str, *arguments: Any) -> None:
    code = getattr(library(), name)(*arguments)
    if code:
        library().cudaGetErrorString.restype = ctypes.c_char_p
        reason = library().cudaGetErrorString(code).decode()
        raise UnfitEngine(f"CUDA: {name} failed: {reason}")


class Stream:
    """A CUDA stream; TensorRT takes its ``handle``."""

    def __init__(self) -> None:
        self._stream = ctypes.c_void_p()
        _call("cudaStreamCreate", ctypes.byref(self._stream))

    @property
    def handle(self) -> int:
        """The stream's address."""
        return int(self._stream.value or 0)

    def wait(self) -> None:
        """Wait until all work on the stream is done."""
        _call("cudaStreamSynchronize", self._stream)


class Buffer:
    """``size`` bytes of memory on the GPU, enough for the largest array that is copied there."""

    def __init__(self, size: int) -> None:
        self._pointer = ctypes.c_void_p()
        _call("cudaMalloc", ctypes.byref(self._pointer), ctypes.c_size_t(size))

    @property
    def address(self) -> int:
        """The device pointer."""
        return int(self._pointer.value or 0)

    def write(self, array: NDArray[Any], stream: Stream) -> None:
        """Copy a contiguous array to the GPU."""
        self._copy(self._pointer, array.ctypes.data_as(ctypes.c_void_p), array, _TO_DEVICE, stream)

    def read(self, array: NDArray[Any], stream: Stream) -> None:
        """Copy from the GPU into a contiguous array; complete after ``stream.wait()``."""
        self._copy(array.ctypes.data_as(ctypes.c_void_p), self._pointer, array, _TO_HOST, stream)

    @staticmethod
    def _copy(to: Any, source: Any, array: NDArray[Any], kind: int, stream: Stream) -> None:
        assert array.flags.c_contiguous
        size = ctypes.c_size_t(array.nbytes)
        _call("cudaMemcpyAsync", to, source, size, ctypes.c_int(kind), stream._stream)

    def __del__(self) -> None:
        if self._pointer.value:
            library().cudaFree(self._pointer)
