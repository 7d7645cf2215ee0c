"""This process's memory, now and at its peak."""

from __future__ import annotations

import sys
from pathlib import Path


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
    line = next(line for line in lines if line.startswith(name + ":"))
    return int(line.split()[1]) * 1024


def _resident_elsewhere(name: str) -> int:
    if name == "VmRSS":
        import psutil

        return int(psutil.Process().memory_info().rss)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
