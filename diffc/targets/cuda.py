"""The few CUDA runtime calls that a TensorRT engine needs, through ctypes.

No package between diffc and libcudart, so that a target machine needs the runtime's library alone
(it comes with ``diffc[rtx]``, with a CUDA installation, or with the driver's containers).
Every call's status is checked: a failure is an UnavailableError with CUDA's own words.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import sys
from functools import cache
from pathlib import Path
from typing import Any

from diffc.errors import UnavailableError

_TO_DEVICE, _TO_HOST = 1, 2
_NON_BLOCKING = 1
_THREAD_LOCAL_CAPTURE = 1


@cache
def _runtime() -> Any:
    names = [str(path) for path in _packaged()]
    names += ["libcudart.so.13", "libcudart.so.12", ctypes.util.find_library("cudart") or ""]
    for name in filter(None, names):
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        library.cudaGetErrorString.restype = ctypes.c_char_p
        return library
    hint = "pip install 'diffc[rtx]', or install CUDA's runtime"
    raise UnavailableError("the CUDA runtime (libcudart) is not installed", hint=hint)


def _packaged() -> list[Path]:
    roots = [Path(entry) / "nvidia" for entry in sys.path if entry]
    return [file for root in roots for file in sorted(root.glob("*/lib/libcudart.so.*"))]


def _call(name: str, *arguments: Any) -> None:
    library = _runtime()
    status = getattr(library, name)(*arguments)
    if status != 0:
        words = library.cudaGetErrorString(status).decode()
        raise UnavailableError(f"CUDA: {name} failed: {words} (error {status})")


def device_count() -> int:
    """How many GPUs CUDA sees. Raises UnavailableError without a runtime or driver."""
    count = ctypes.c_int()
    _call("cudaGetDeviceCount", ctypes.byref(count))
    return count.value


def free_bytes() -> int:
    """Free memory of the current device."""
    return _memory()[0]


def used_bytes() -> int:
    """Memory of the current device that is in use, whoever uses it."""
    free, total = _memory()
    return total - free


def _memory() -> tuple[int, int]:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    _call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
    return free.value, total.value


class Buffer:
    """Device memory of a fixed size."""

    def __init__(self, size: int) -> None:
        self._pointer = ctypes.c_void_p()
        _call("cudaMalloc", ctypes.byref(self._pointer), ctypes.c_size_t(max(size, 1)))

    @property
    def address(self) -> int:
        """The device address."""
        return int(self._pointer.value or 0)

    def write(self, array: Any, stream: Stream) -> None:
        """Copy a C-contiguous numpy array in, and wait."""
        source, size = ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)
        _call("cudaMemcpyAsync", self._pointer, source, size, _TO_DEVICE, stream.handle)
        stream.wait()

    def read(self, array: Any, stream: Stream) -> None:
        """Copy out into a C-contiguous numpy array, and wait."""
        goal, size = ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)
        _call("cudaMemcpyAsync", goal, self._pointer, size, _TO_HOST, stream.handle)
        stream.wait()

    def free(self) -> None:
        """Give the memory back."""
        _call("cudaFree", self._pointer)


class Stream:
    """A stream, and a pair of events that time what runs on it."""

    def __init__(self) -> None:
        self.handle = ctypes.c_void_p()
        _call("cudaStreamCreateWithFlags", ctypes.byref(self.handle), _NON_BLOCKING)
        self._start, self._end = ctypes.c_void_p(), ctypes.c_void_p()
        _call("cudaEventCreate", ctypes.byref(self._start))
        _call("cudaEventCreate", ctypes.byref(self._end))

    def wait(self) -> None:
        """Until everything on it is done."""
        _call("cudaStreamSynchronize", self.handle)

    def start(self) -> None:
        """Record the starting event."""
        _call("cudaEventRecord", self._start, self.handle)

    def seconds(self) -> float:
        """Record the ending event, wait for it, and return the GPU's seconds since the start."""
        _call("cudaEventRecord", self._end, self.handle)
        _call("cudaEventSynchronize", self._end)
        elapsed = ctypes.c_float()
        _call("cudaEventElapsedTime", ctypes.byref(elapsed), self._start, self._end)
        return elapsed.value / 1e3


class Graph:
    """What ``work`` put on ``stream``, captured once and launched as one."""

    def __init__(self, stream: Stream, work: Any) -> None:
        graph, self._launch = ctypes.c_void_p(), ctypes.c_void_p()
        _call("cudaStreamBeginCapture", stream.handle, _THREAD_LOCAL_CAPTURE)
        try:
            work()
        finally:
            _call("cudaStreamEndCapture", stream.handle, ctypes.byref(graph))
        _call("cudaGraphInstantiate", ctypes.byref(self._launch), graph, ctypes.c_ulonglong(0))
        _call("cudaGraphDestroy", graph)

    def launch(self, stream: Stream) -> None:
        """Put the graph on the stream."""
        _call("cudaGraphLaunch", self._launch, stream.handle)
