"""The few CUDA runtime calls that a TensorRT engine needs, through ctypes.

No package between diffc and libcudart, so that a target machine needs the runtime's library alone
(it comes with ``diffc[rtx]``, with a CUDA installation, or with the driver's containers).
Every call's status is checked: a failure is an UnavailableError with CUDA's own words, and with
ours for the three that people meet: no memory, no driver, a driver too old for the runtime.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import sys
import weakref
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import UnavailableError
from . import nvml, out_of_memory

EVENTS, CLOCK = "GPU events", "clock"
"""What a call's seconds are measured by, in the words of ``details.timed_by``."""
_TO_DEVICE, _TO_HOST = 1, 2
_NON_BLOCKING = 1
_THREAD_LOCAL_CAPTURE = 1
_NO_MEMORY, _DRIVER_TOO_OLD, _BUSY = 2, 35, 46


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


def _call(name: str, *arguments: Any, asked: int | None = None) -> None:
    library = _runtime()
    status = getattr(library, name)(*arguments)
    if status != 0:
        library.cudaGetLastError()  # else the next library in this process takes it for its own
        raise _failure(library, name, status, asked)


def _failure(library: Any, name: str, status: int, asked: int | None) -> UnavailableError:
    if status == _NO_MEMORY:
        if name == "cudaMemGetInfo":  # no room for a context: CUDA cannot be asked again
            return out_of_memory.error("starting CUDA", None, True, nvml.device_memory() or (0, 0))
        doing = "making a buffer" if name == "cudaMalloc" else f"calling {name}"
        return out_of_memory.error(doing, asked, on_gpu=True)
    words = library.cudaGetErrorString(status).decode()
    message = f"CUDA: {name} failed: {words} (error {status})"
    if status == _DRIVER_TOO_OLD:
        driver, runtime = _versions(library)
        if driver is None:
            return UnavailableError(message, hint="there is no NVIDIA driver on this machine")
        hint = f"the driver is for CUDA {driver}, the runtime is {runtime}: update the driver"
        return UnavailableError(message, hint=hint)
    if status == _BUSY:
        hint = "another process may hold the GPU for itself: `nvidia-smi` shows who uses it"
        return UnavailableError(message, hint=hint)
    return UnavailableError(message)


def _versions(library: Any) -> tuple[str | None, str]:
    """(what CUDA the driver is for, the runtime's version); None without a driver."""
    driver, runtime = ctypes.c_int(), ctypes.c_int()
    library.cudaDriverGetVersion(ctypes.byref(driver))
    library.cudaRuntimeGetVersion(ctypes.byref(runtime))
    return _dotted(driver.value) if driver.value else None, _dotted(runtime.value)


def _dotted(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def installed() -> bool:
    """Whether the CUDA runtime's library is here; a GPU may be absent all the same."""
    with suppress(UnavailableError):
        return _runtime() is not None
    return False


def device_count() -> int:
    """How many GPUs CUDA sees. Raises UnavailableError without a runtime or driver."""
    count = ctypes.c_int()
    _call("cudaGetDeviceCount", ctypes.byref(count))
    return count.value


def free_bytes() -> int:
    """Free memory of the current device."""
    return memory()[0]


def used_bytes() -> int:
    """Memory of the current device that is in use, by all processes."""
    free, total = memory()
    return total - free


def memory() -> tuple[int, int]:
    """(free, total) bytes of the current device; of the slice, under MIG."""
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    _call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
    return free.value, total.value


class Buffer:
    """Device memory of a fixed size, given back at the latest when nothing holds it any more."""

    def __init__(self, size: int) -> None:
        self._pointer = ctypes.c_void_p()
        size = max(size, 1)
        _call("cudaMalloc", ctypes.byref(self._pointer), ctypes.c_size_t(size), asked=size)
        # several buffers are made in a row: when one fails, those before it must not stay
        self._free = weakref.finalize(self, _call, "cudaFree", self._pointer)
        self._free.atexit = False

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
        self._free()


class Stream:
    """A stream, and a pair of events that time what runs on it."""

    def __init__(self) -> None:
        self.handle = ctypes.c_void_p()
        _call("cudaStreamCreateWithFlags", ctypes.byref(self.handle), _NON_BLOCKING)
        self._start, self._end = ctypes.c_void_p(), ctypes.c_void_p()
        _call("cudaEventCreate", ctypes.byref(self._start))
        _call("cudaEventCreate", ctypes.byref(self._end))

    @property
    def address(self) -> int:
        """The handle as libraries take it."""
        return int(self.handle.value or 0)

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


class CudaGraph:
    """What ``work`` put on ``stream``, captured once and launched as one.

    When it cannot be captured, the stream is usable again; the error raised is the first one, which
    says what went wrong: that the capture then does not end well follows from it.
    """

    def __init__(self, stream: Stream, work: Any) -> None:
        graph, self._launch = ctypes.c_void_p(), ctypes.c_void_p()
        _call("cudaStreamBeginCapture", stream.handle, _THREAD_LOCAL_CAPTURE)
        try:
            work()
        except BaseException:
            with suppress(UnavailableError):
                _call("cudaStreamEndCapture", stream.handle, ctypes.byref(graph))
            raise
        _call("cudaStreamEndCapture", stream.handle, ctypes.byref(graph))
        _call("cudaGraphInstantiate", ctypes.byref(self._launch), graph, ctypes.c_ulonglong(0))
        _call("cudaGraphDestroy", graph)

    def launch(self, stream: Stream) -> None:
        """Put the graph on the stream."""
        _call("cudaGraphLaunch", self._launch, stream.handle)
