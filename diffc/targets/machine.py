"""This machine, as far as an engine depends on it: processor, GPUs, installed packages.

Reads files and runs ``nvidia-smi``; imports no runtime, so that it is cheap and cannot fail.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from pathlib import Path

_GPU_FIELDS = "name,compute_cap,driver_version,memory.total,clocks.sm,clocks.max.sm"


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU. memory_mib is its total; clocks are in MHz, now and at most.

    index: the driver's number of it, which CUDA_VISIBLE_DEVICES does not change.
    """

    name: str
    compute_capability: str
    driver: str
    memory_mib: int
    clock_mhz: int | None
    max_clock_mhz: int | None
    index: int = 0

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
    """How many processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
    """Those of ``found`` that CUDA_VISIBLE_DEVICES leaves, in its order; all when it names UUIDs.

    As CUDA reads it: the list ends at the first entry that is no device.
    """
    if chosen is None or chosen.startswith(("GPU-", "MIG-")):
        return found
    kept = []
    for entry in chosen.split(","):
        if not entry.strip().isdigit() or int(entry) >= len(found):
            break
        kept.append(found[int(entry)])
    return tuple(kept)


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
    name, capability, driver, memory, clock, most = (part.strip() for part in line.split(","))
    return Gpu(name, capability, driver, _int(memory) or 0, _int(clock), _int(most))


def _int(text: str) -> int | None:
    return int(text) if text.isdigit() else None


def gpu_fingerprint() -> dict[str, str]:
    """What an engine for the first GPU depends on; empty without one."""
    if not gpus():
        return {}
    gpu = gpus()[0]
    return {"gpu": gpu.name, "compute_capability": gpu.compute_capability, "driver": gpu.driver}
