"""The processor: how many cores this process may use, and what an engine depends on.

Reads files of the kernel; cheap, and cannot fail.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from ..errors import RequestError


def cores() -> int:
    """How many processor cores this process may use: by its affinity and by its cgroup's quota."""
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    return min(allowed, cpu_quota() or allowed)


_CGROUPS = Path("/sys/fs/cgroup")


def cpu_quota(membership: Path = Path("/proc/self/cgroup"), root: Path = _CGROUPS) -> int | None:
    """The cores' worth of time that this process's cgroups leave it, rounded up; None: no limit.

    Containers are limited this way (``docker --cpus 2``): every core is there, for part of the
    time, and a thread for each is stopped in the middle of its work. Both versions are read.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return None
    quotas = [quota for line in lines for quota in _quotas(line, root)]
    return min(quotas, default=None)


def _quotas(line: str, root: Path) -> Iterator[int]:
    """The limits of one line's group and of all above it: the tightest holds.

    Inside a container a group may go by its name outside, and lie at the root.
    """
    _, controllers, path = line.split(":", 2)
    if controllers and "cpu" not in controllers.split(","):
        return
    base = root / "cpu" if controllers else root
    group = base / path.lstrip("/")
    for folder in (group, *group.parents):
        quota = _quota_v1(folder) if controllers else _quota_v2(folder)
        if quota is not None:
            yield quota
        if folder == base:
            return


def _quota_v2(group: Path) -> int | None:
    try:
        quota, period = (group / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else math.ceil(int(quota) / int(period))


def _quota_v1(group: Path) -> int | None:
    try:
        quota = int((group / "cpu.cfs_quota_us").read_text())
        period = int((group / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return None if quota < 0 else math.ceil(quota / period)


def threads(asked: int | None, built: int | None = None) -> int:
    """The threads of an engine here: those asked for, else those it was built with, else all.

    An engine that was built on a larger machine gets no more than this one has; asking for more
    than there are raises RequestError.
    """
    check_threads(asked)
    return min(asked or built or cores(), cores())


def check_threads(asked: int | None) -> None:
    """Raise RequestError for less than one, or for more than cores: those only wait in turn."""
    if asked is not None and asked < 1:
        raise RequestError(
            f"{asked} threads were asked for", hint="give --threads 1 or more, or leave it out"
        )
    if asked is not None and asked > cores():
        raise RequestError(
            f"{asked} threads were asked for, this process may use {cores()} cores",
            hint=f"give --threads {cores()} or fewer; without it an engine uses every core",
        )


@cache
def cpu_info() -> dict[str, str]:
    """The first processor's fields of /proc/cpuinfo; empty where there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def cpu_name() -> str:
    """The processor's name as it gives it, else the architecture."""
    return cpu_info().get("model name") or platform.processor() or platform.machine()


def cpu_flags() -> frozenset[str]:
    """The instruction sets that the processor names (``avx512_bf16``, ``amx_int8``, ...)."""
    info = cpu_info()
    return frozenset((info.get("flags") or info.get("Features") or "").split())


def fast_bf16() -> bool:
    """Whether this processor multiplies bf16 faster than fp32.

    With AMX, and with AVX-512 BF16 on AMD's (measured: a training step 1.65 times as fast on an
    EPYC). Intel's without AMX have the instructions at no gain (measured: a forward pass of CIFAR's
    U-Net takes 1.5 times as long), and emulated bf16 is slower still.
    """
    flags = cpu_flags()
    amd = cpu_info().get("vendor_id") == "AuthenticAMD"
    return "amx_bf16" in flags or ("avx512_bf16" in flags and amd)


def cpu_fingerprint() -> dict[str, str]:
    """What an engine tuned for a processor depends on."""
    info = cpu_info()
    model = " ".join(info.get(key, "") for key in ("vendor_id", "cpu family", "model")).strip()
    simd = [flag for flag in sorted(cpu_flags()) if flag.startswith(("avx", "amx", "sve", "asimd"))]
    return {
        "machine": platform.machine(),
        "cpu": cpu_name(),
        "cpu_model": model,
        "simd": " ".join(simd),
    }
