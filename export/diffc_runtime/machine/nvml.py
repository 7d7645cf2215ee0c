"""What NVIDIA's management library says of a GPU, through ctypes: who uses how much of it.

    process_bytes   this process's memory        others, busy   who else is at work on it
    device_memory   free and total               slices         what MIG has cut it into
    driver_cuda     the CUDA version that the driver is for

The driver brings libnvidia-ml; nothing is installed. Everything answers None where the library, the
GPU or the figure is not there: inside a container the driver often knows this process by another
number, and a virtual GPU may not say.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

from . import gpu

_OK, _TOO_SMALL = 0, 7
_NOT_AVAILABLE = 2**64 - 1
_IDLE_PERCENT = 5
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


def process_bytes(
    device: int | None = None, library: Any = None, pid: int | None = None
) -> int | None:
    """Bytes of device memory that this process holds, its CUDA context included; None: not known.

    library, pid: in place of the driver's and this process's, for tests.
    """
    nvml = library or _library()
    handle = _handle(nvml, device)
    if handle is None:
        return None
    wanted = os.getpid() if pid is None else pid
    readings = [
        p.used for name in _LISTS for p in _processes(nvml, name, handle) if p.pid == wanted
    ]
    known = [used for used in readings if used != _NOT_AVAILABLE]
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


class _Memory(ctypes.Structure):
    """nvmlMemory_t."""

    _fields_ = (
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


class _Utilization(ctypes.Structure):
    """nvmlUtilization_t, in per cent."""

    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


@dataclass(frozen=True)
class OtherProcess:
    """Another process that computes on the GPU; used: its bytes, None: not known."""

    pid: int
    used: int | None


@dataclass(frozen=True)
class MigSlice:
    """A part of a GPU that MIG has cut off: its name as NVIDIA gives it, and its bytes."""

    name: str
    total: int


def driver_cuda(library: Any = None) -> tuple[int, int] | None:
    """The CUDA version (major, minor) that the driver is for; None: not known."""
    nvml = library or _library()
    number = ctypes.c_int()
    if nvml is None or nvml.nvmlSystemGetCudaDriverVersion_v2(ctypes.byref(number)) != _OK:
        return None
    return number.value // 1000, number.value % 1000 // 10


def device_memory(device: int | None = None, library: Any = None) -> tuple[int, int] | None:
    """(free, total) bytes of the whole GPU, by all processes; None: not known."""
    nvml = library or _library()
    handle = _handle(nvml, device)
    return None if handle is None else _memory(nvml, handle)


def _handle(nvml: Any, device: int | None) -> ctypes.c_void_p | None:
    handle, index = ctypes.c_void_p(), _first_visible() if device is None else device
    if nvml is None or nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) != _OK:
        return None
    return handle


def _first_visible() -> int:
    """The driver's number of the GPU that this process uses: it knows no CUDA_VISIBLE_DEVICES."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    if first.startswith("GPU-"):
        return next((one.index for one in gpu.gpus()), 0)
    return int(first) if first.isdigit() else 0


def _memory(nvml: Any, handle: ctypes.c_void_p) -> tuple[int, int] | None:
    memory = _Memory()
    if nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) != _OK:
        return None
    return int(memory.free), int(memory.total)


def others(
    device: int | None = None, library: Any = None, pid: int | None = None, mine: bool | None = None
) -> list[OtherProcess] | None:
    """The other processes that compute on the GPU; None: not known.

    In a container the driver may know this process by another number. So where its own number is
    not listed although it uses the GPU (``mine``; None: found out), who is who is not known.
    """
    nvml = library or _library()
    handle = _handle(nvml, device)
    if handle is None:
        return None
    listed = {p.pid: p.used for p in _processes(nvml, _LISTS[0], handle)}
    own = os.getpid() if pid is None else pid
    if own not in listed and listed and (_uses_cuda() if mine is None else mine):
        return None
    return [
        OtherProcess(number, None if used == _NOT_AVAILABLE else int(used))
        for number, used in sorted(listed.items())
        if number != own
    ]


def _uses_cuda() -> bool:
    """Whether this process holds a CUDA context on the first GPU; asking makes none."""
    with suppress(OSError, AttributeError):
        driver = ctypes.CDLL("libcuda.so.1")
        flags, active = ctypes.c_uint(), ctypes.c_int()
        driver.cuInit(0)
        if driver.cuDevicePrimaryCtxGetState(0, ctypes.byref(flags), ctypes.byref(active)) == _OK:
            return bool(active.value)
    return False


def words(held: Sequence[OtherProcess]) -> str:
    """Return other processes of the GPU in words, such as 'process 4711 holds 10.2 GiB of it'.

    Three of them at most, those with most memory first.
    """
    ranked = sorted(held, key=lambda other: -(other.used or 0))
    said = [
        f"process {other.pid} "
        + ("uses it" if other.used is None else f"holds {other.used / (1 << 30):.1f} GiB of it")
        for other in ranked[:3]
    ]
    more = len(ranked) - len(said)
    return ", ".join(said) + (f", and {more} more" if more else "")


def busy(device: int | None = None, library: Any = None, mine: bool | None = None) -> str | None:
    """The other processes of the GPU, in words; None: the driver knows of none.

    Where this process does not use it itself, work that the driver attributes to no process (those
    of other containers) shows in how busy the GPU is.
    """
    nvml = library or _library()
    handle = _handle(nvml, device)
    if handle is None:
        return None
    uses = _uses_cuda() if mine is None else mine
    processes = others(device, nvml, mine=uses)
    if processes:
        return words(processes)
    rates = _Utilization()
    if uses or nvml.nvmlDeviceGetUtilizationRates(handle, ctypes.byref(rates)) != _OK:
        return None
    return f"it is {rates.gpu} % busy" if rates.gpu > _IDLE_PERCENT else None


def slices(device: int | None = None, library: Any = None) -> tuple[MigSlice, ...] | None:
    """The slices that MIG has cut the GPU into; None where MIG is off or not to be had.

    A program sees one slice only, the first that is visible to it.
    """
    nvml = library or _library()
    handle = _handle(nvml, device)
    now, later, most = ctypes.c_uint(), ctypes.c_uint(), ctypes.c_uint()
    if handle is None or getattr(nvml, "nvmlDeviceGetMigMode", None) is None:
        return None
    mode = nvml.nvmlDeviceGetMigMode(handle, ctypes.byref(now), ctypes.byref(later))
    if mode != _OK or not now.value:
        return None
    if nvml.nvmlDeviceGetMaxMigDeviceCount(handle, ctypes.byref(most)) != _OK:
        return ()
    instances = (_slice(nvml, handle, index) for index in range(most.value))
    return tuple(one for one in instances if one is not None)


def _slice(nvml: Any, parent: ctypes.c_void_p, index: int) -> MigSlice | None:
    """The slice in place ``index``; places may be empty."""
    handle, name = ctypes.c_void_p(), ctypes.create_string_buffer(96)
    if nvml.nvmlDeviceGetMigDeviceHandleByIndex(parent, index, ctypes.byref(handle)) != _OK:
        return None
    if nvml.nvmlDeviceGetName(handle, name, len(name)) != _OK:
        return None
    memory = _memory(nvml, handle)
    return MigSlice(name.value.decode(), memory[1] if memory else 0)
