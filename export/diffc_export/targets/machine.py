"""This machine, as far as an engine depends on it: processor, GPUs, installed packages.

Reads files and runs ``nvidia-smi``; imports no runtime, so that it is cheap and cannot fail.
"""

from __future__ import annotations

import math
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from pathlib import Path

from diffc_runtime.errors import RequestError

_GPU_FIELDS = "name,compute_cap,driver_version,memory.total,clocks.sm,clocks.max.sm,uuid"


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU. memory_mib is its total; clocks are in MHz, now and at most.

    index: the driver's number of it, which CUDA_VISIBLE_DEVICES does not change. uuid: the driver's
    name of it ("GPU-..."), which CUDA_VISIBLE_DEVICES may give in place of a number.
    """

    name: str
    compute_capability: str
    driver: str
    memory_mib: int
    clock_mhz: int | None
    max_clock_mhz: int | None
    index: int = 0
    uuid: str = ""

    @property
    def sm(self) -> str:
        """Its compute capability as builders write it: ``sm86``."""
        return "sm" + self.compute_capability.replace(".", "")


@cache
def version(package: str) -> str | None:
    """The installed version of a distribution, or None; imports nothing."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def first_version(*packages: str) -> tuple[str, str] | None:
    """(distribution, version) of the first one that is installed."""
    found = ((name, version(name)) for name in packages)
    return next(((name, number) for name, number in found if number), None)


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
    found = [quota for line in lines for quota in _quotas(line, root)]
    return min(found, default=None)


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


def gpus() -> tuple[Gpu, ...]:
    """The NVIDIA GPUs that this process may use, by nvidia-smi and CUDA_VISIBLE_DEVICES.

    Empty when there is none or no driver.
    """
    said, failure = nvidia_smi()
    lines = [] if failure else [line for line in said.splitlines() if line.strip()]
    found = tuple(replace(parse_gpu(line), index=i) for i, line in enumerate(lines))
    return visible(found, os.environ.get("CUDA_VISIBLE_DEVICES"))


def visible(found: tuple[Gpu, ...], chosen: str | None) -> tuple[Gpu, ...]:
    """Those of ``found`` that CUDA_VISIBLE_DEVICES leaves, in its order.

    As CUDA reads it: numbers, or the beginnings of UUIDs; the list ends at the first entry that is
    no device. All when it names a slice (MIG-...), for whose slice that is nvidia-smi's list does
    not say.
    """
    if chosen is None or chosen.startswith("MIG-"):
        return found
    kept = []
    for entry in chosen.split(","):
        gpu = _named(found, entry.strip())
        if gpu is None:
            break
        kept.append(gpu)
    return tuple(kept)


def _named(found: tuple[Gpu, ...], entry: str) -> Gpu | None:
    """The GPU of one entry; None when it is no device, or begins more than one UUID."""
    if entry.startswith("GPU-"):
        fitting = [gpu for gpu in found if gpu.uuid.startswith(entry)]
        return fitting[0] if len(fitting) == 1 else None
    return found[int(entry)] if entry.isdigit() and int(entry) < len(found) else None


NO_TOOL = "no nvidia-smi"


@cache
def nvidia_smi() -> tuple[str, str]:
    """(one line for each GPU, why there are none): one of the two is empty."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "", NO_TOOL
    query = [tool, f"--query-gpu={_GPU_FIELDS}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except subprocess.CalledProcessError as failed:
        said = " ".join(f"{failed.stdout or ''} {failed.stderr or ''}".split())
        return "", f"nvidia-smi says: {said[:160] or f'exit status {failed.returncode}'}"
    except (OSError, subprocess.SubprocessError) as failed:
        return "", f"nvidia-smi does not answer ({type(failed).__name__})"
    return done.stdout, ""


def parse_gpu(line: str) -> Gpu:
    """One line of nvidia-smi's CSV; a figure it cannot read (``[N/A]``) becomes None or 0."""
    name, capability, driver, memory, clock, most, *rest = map(str.strip, line.split(","))
    uuid = rest[0] if rest else ""
    return Gpu(name, capability, driver, _int(memory) or 0, _int(clock), _int(most), uuid=uuid)


def _int(text: str) -> int | None:
    return int(text) if text.isdigit() else None


def gpu_fingerprint() -> dict[str, str]:
    """What an engine for the first GPU depends on; empty without one."""
    if not gpus():
        return {}
    gpu = gpus()[0]
    return {"gpu": gpu.name, "compute_capability": gpu.compute_capability, "driver": gpu.driver}
