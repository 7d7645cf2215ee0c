"""The machine that figures come from, as a reader needs it to judge or repeat them.

Read from files, packages' metadata and nvidia-smi; no runtime is imported. What cannot be read is
absent, never guessed.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from diffc_export.targets import engine_packages, ort
from diffc_runtime import machine
from diffc_runtime.json_types import JsonObject
from diffc_runtime.machine import nvml
from diffc_runtime.machine.out_of_memory import host_memory

_PACKAGES = ("diffc", "torch", "diffusers", "torch-pruning", "numpy", "onnx")
_KEYS = ("cpu", "cores", "os", "python", "gpus", "packages")
_NOT_COMPARED = ("diffc", "torch-pruning", "diffusers")
OF_THE_MOMENT = ("clock_mhz", "busy")
"""The facts of a GPU that change from moment to moment."""


class GpuInfo(BaseModel):
    """One NVIDIA GPU; clocks in MHz.

    Attributes:
        cuda: The CUDA version that its driver is for.
        mig: The slices that it is cut into, of which a program sees the first only; None where it
            is whole.
        busy: The other programs at work on it.
    """

    name: str
    compute_capability: str
    driver: str
    memory_mib: int
    clock_mhz: int | None = None
    max_clock_mhz: int | None = None
    cuda: str | None = None
    mig: list[str] | None = None
    busy: str | None = None


class Environment(BaseModel):
    """The machine at the time of measuring.

    Attributes:
        cores: The cores that this process may use.
        clock_mhz: Of the first core, now.
        load: The load averages over 1, 5 and 15 minutes. Above the number of cores, others are at
            work here.
    """

    model_config = ConfigDict(extra="forbid", defer_build=True)

    cpu: str
    cores: int
    logical_cpus: int
    cpu_flags: list[str]
    clock_mhz: float | None = None
    governor: str | None = None
    memory_bytes: int
    container_memory_bytes: int | None = None
    os: str
    python: str
    packages: dict[str, str]
    gpus: list[GpuInfo] = Field(default_factory=list)
    load: tuple[float, float, float] | None = None
    fingerprint: str = ""


def read_environment() -> Environment:
    """This machine, now."""
    environment = Environment(
        cpu=machine.cpu.cpu_name(),
        cores=machine.cpu.cores(),
        logical_cpus=os.cpu_count() or 1,
        cpu_flags=_simd_flags(),
        clock_mhz=_clock(),
        governor=_text(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        memory_bytes=_memory(),
        container_memory_bytes=_container_memory(),
        os=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        packages=_packages(),
        gpus=_gpus(),
        load=os.getloadavg() if hasattr(os, "getloadavg") else None,
    )
    return environment.model_copy(update={"fingerprint": fingerprint(environment.model_dump())})


def fingerprint(environment: JsonObject) -> str:
    """A short hash of what must be equal for two runs' times to be compared.

    Processor, usable cores, system, Python, GPUs with their drivers, and runtimes; neither the load
    nor clocks at the moment, nor the packages that only make the model.
    """
    kept = {key: environment[key] for key in _KEYS}
    kept["packages"] = {k: v for k, v in kept["packages"].items() if k not in _NOT_COMPARED}
    kept["gpus"] = [
        {k: v for k, v in gpu.items() if k not in OF_THE_MOMENT} for gpu in kept["gpus"]
    ]
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def _gpus() -> list[GpuInfo]:
    driver = nvml.driver_cuda()
    cuda = ".".join(map(str, driver)) if driver else None
    gpus = []
    for gpu in machine.gpu.gpus():
        cut = nvml.slices(gpu.index)
        names = None if cut is None else [f"{part.name}, {part.total >> 20} MiB" for part in cut]
        facts = {key: value for key, value in vars(gpu).items() if key != "index"}
        gpus.append(GpuInfo(**facts, cuda=cuda, mig=names, busy=nvml.busy(gpu.index)))
    return gpus


def _simd_flags() -> list[str]:
    return machine.cpu.cpu_fingerprint()["simd"].split()


def _packages() -> dict[str, str]:
    """Versions by distribution; of ONNX Runtime's two, the distribution that an import gives."""
    names = (*_PACKAGES, *engine_packages())
    versions = {name: number for name in names if (number := machine.packages.version(name))}
    imported = ort.package()
    if imported is None:
        return versions
    others = {name: number for name, number in versions.items() if name not in ort.PACKAGES}
    return {**others, imported[0]: imported[1]}


def _clock() -> float | None:
    text = machine.cpu.cpu_info().get("cpu MHz")
    return float(text) if text else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _memory() -> int:
    known = host_memory()
    if known is not None:
        return known[1]
    import psutil  # where there is no /proc/meminfo

    return int(psutil.virtual_memory().total)


def _container_memory() -> int | None:
    """The control group's limit, where one is set."""
    text = _text(Path("/sys/fs/cgroup/memory.max"))
    return int(text) if text and text.isdigit() else None
