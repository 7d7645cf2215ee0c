"""What NVIDIA's management library says of a GPU's memory, through ctypes: this process's share.

The driver brings libnvidia-ml; nothing is installed. Everything answers None where the library, the
GPU or the figure is not there: inside a container the driver often knows this process by another
number, and a virtual GPU may not say.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from functools import cache
from typing import Any

_OK, _TOO_SMALL = 0, 7
_NOT_AVAILABLE = 2**64 - 1
_LISTS = ("nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetGraphicsRunningProcesses_v3")


class _Process(ctypes.Structure):
    """nvmlProcessInfo_t, version 2 (of the _v3 calls)."""

    _fields_ = (
        ("pid", ctypes.c_uint),
        ("used", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    )


@cache
def _library() -> Any:
    """The library, initialised once; None where there is none."""
    for name in ("libnvidia-ml.so.1", "nvml.dll"):
        with suppress(OSError, AttributeError):
            library = ctypes.CDLL(name)
            if library.nvmlInit_v2() == _OK:
                return library
    return None


def process_bytes(device: int = 0, library: Any = None, pid: int | None = None) -> int | None:
    """Bytes of device memory that this process holds, its CUDA context included; None: not known.

    library, pid: in place of the driver's and this process's, for tests.
    """
    nvml = library or _library()
    handle = ctypes.c_void_p()
    if nvml is None or nvml.nvmlDeviceGetHandleByIndex_v2(device, ctypes.byref(handle)) != _OK:
        return None
    wanted = os.getpid() if pid is None else pid
    found = [p.used for name in _LISTS for p in _processes(nvml, name, handle) if p.pid == wanted]
    known = [used for used in found if used != _NOT_AVAILABLE]
    return max(known) if known else None


def _processes(nvml: Any, name: str, handle: ctypes.c_void_p) -> list[_Process]:
    """One of the driver's lists; its length is asked for first, as the library wants it."""
    call = getattr(nvml, name, None)
    if call is None:
        return []
    count = ctypes.c_uint(0)
    status = call(handle, ctypes.byref(count), None)
    for _ in range(3):  # others may start between the two calls
        if status != _TOO_SMALL:
            return []
        room = count.value + 8
        count = ctypes.c_uint(room)
        processes = (_Process * room)()
        status = call(handle, ctypes.byref(count), processes)
        if status == _OK:
            return list(processes[: count.value])
    return []
