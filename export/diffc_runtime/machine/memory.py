"""This process's memory, now and at its peak."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress
from pathlib import Path

_M_MMAP_THRESHOLD = -3
"""glibc's name for the size from which on memory comes from the system and goes back to it."""


def reset_peak() -> None:
    """Start counting VmHWM anew, where the kernel can; elsewhere it stays the whole process's."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_memory() -> int:
    """Bytes: the peak of this process's resident memory since ``reset_peak``."""
    return memory_field("VmHWM")


def memory_field(name: str) -> int:
    """VmRSS or VmHWM of this process in bytes, from /proc/self/status; elsewhere by the system."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return _resident_elsewhere(name)
    line = next((line for line in lines if line.startswith(name + ":")), None)
    # gVisor's kernel has no VmHWM
    return _resident_elsewhere(name) if line is None else int(line.split()[1]) * 1024


def _resident_elsewhere(name: str) -> int:
    if name == "VmRSS":
        import psutil

        return int(psutil.Process().memory_info().rss)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def return_large_blocks(least: int = 1 << 17) -> None:
    """Have freed blocks of ``least`` bytes or more go back to the system at once, where glibc is.

    glibc raises this size from 128 KB to 32 MB by itself, and then keeps freed blocks in a heap
    with gaps: a training that computes activations again takes far more than its tensors. With this
    it takes these alone, and some more time. It cannot be undone.
    """
    with suppress(OSError, AttributeError):  # another system, another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, least)
