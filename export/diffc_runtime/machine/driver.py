"""NVIDIA's driver: whether there is one, and whether it is new enough for what is installed.

Told from nvidia-smi, the driver's own library, the PCI bus and the packages' metadata: no runtime
is imported, so that ``diffc doctor`` can say it where the runtime could not even load.
"""

from __future__ import annotations

import os
import re
from functools import cache
from importlib import metadata, util
from pathlib import Path

from . import gpu, nvml, packages


def no_gpu() -> str:
    """Why there is no GPU to run on, in one line; empty when there is one."""
    _, failure = gpu.nvidia_smi()
    if gpu.gpus():
        return ""
    if failure and failure != gpu.NO_TOOL:
        return failure
    if not failure and os.environ.get("CUDA_VISIBLE_DEVICES") is not None:
        return "CUDA_VISIBLE_DEVICES leaves no NVIDIA GPU here"
    if _on_the_bus():
        return "there is an NVIDIA GPU here but no driver for it: install NVIDIA's driver"
    return "no NVIDIA GPU here"


def _on_the_bus(devices: Path = Path("/sys/bus/pci/devices")) -> bool:
    """Whether a display or compute device of NVIDIA's is in this machine, driver or not."""
    for device in devices.glob("*"):
        try:
            vendor, kind = ((device / name).read_text().strip() for name in ("vendor", "class"))
        except OSError:
            continue
        if vendor == "0x10de" and kind.startswith("0x03"):
            return True
    return False


_DRIVERS = {12: "525", 13: "580"}
"""CUDA's major version -> the first Linux driver that runs it (CUDA's release notes, table 3)."""


def old_driver(*distributions: str) -> str:
    """Why the driver cannot run the first installed one of these; empty when it can.

    A driver runs every CUDA of its own major version and those before.
    """
    package, driver = packages.first_version(*distributions), nvml.driver_cuda()
    needed = cuda_major(package[0]) if package else None
    if package is None or needed is None or driver is None or driver[0] >= needed:
        return ""
    least = _DRIVERS.get(needed)
    number = f" ({gpu.gpus()[0].driver})" if gpu.gpus() else ""
    return (
        f"the driver{number} is for CUDA {driver[0]}.{driver[1]}, {package[0]} {package[1]} needs "
        f"CUDA {needed}: update the driver" + (f" to {least} or later" if least else "")
    )


_CUDA = re.compile(
    r"[-_]cu(\d\d)(?!\d)|\+cu(\d\d)\d|^(?:nvidia-cuda-runtime|cuda-toolkit)\D*(\d+)\."
)


@cache
def cuda_major(package: str) -> int | None:
    """The CUDA major version that an installed distribution is built for; None: it does not say.

    From its name (tensorrt-cu13), its version (+cu130), or the CUDA runtime that it asks for.
    """
    if package == "torch":
        return torch_cuda()
    try:
        requirements = metadata.requires(package) or []
    except metadata.PackageNotFoundError:
        return None
    for text in (package, f"+{(packages.version(package) or '').partition('+')[2]}", *requirements):
        match = _CUDA.search(text)
        if match:
            return int(next(group for group in match.groups() if group))
    return None


@cache
def torch_cuda() -> int | None:
    """The CUDA major version that the installed torch is built for; None: it is for the CPU.

    Read from its version.py: importing torch takes seconds.
    """
    spec = util.find_spec("torch")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        try:
            text = (Path(folder) / "version.py").read_text()
        except OSError:
            continue
        match = re.search(r"^cuda\b[^=\n]*= *['\"](\d+)", text, re.MULTILINE)
        return int(match[1]) if match else None
    return None


def torch_on_gpu() -> bool:
    """Whether torch runs on a GPU here, as far as can be told without importing it."""
    return bool(gpu.gpus()) and torch_cuda() is not None
