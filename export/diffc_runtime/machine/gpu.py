"""The NVIDIA GPUs that this process may use, from nvidia-smi and CUDA_VISIBLE_DEVICES."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, replace
from functools import cache

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


def gpus() -> tuple[Gpu, ...]:
    """The NVIDIA GPUs that this process may use, by nvidia-smi and CUDA_VISIBLE_DEVICES.

    Empty when there is none or no driver.
    """
    said, failure = nvidia_smi()
    lines = [] if failure else [line for line in said.splitlines() if line.strip()]
    listed = tuple(replace(parse_gpu(line), index=i) for i, line in enumerate(lines))
    return visible(listed, os.environ.get("CUDA_VISIBLE_DEVICES"))


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
