"""Does an engine fit this machine? What it was built for against what is here.

Reads files and package metadata, and runs ``nvidia-smi``; loads no engine runtime. The properties
are named and worded as diffc writes them at the build.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import loaders
from .errors import UnfitEngine
from .files import file_digest


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def misfit(info: Mapping[str, Any]) -> str | None:
    """Why the engine cannot run here: what it was built for, and what is here; None when it can."""
    unknown = loaders.why_none(info["target"])
    if unknown is not None:
        return unknown
    there = {**info["device"], **info["versions"]}
    tied = list(info["tied_to"])
    here = machine_properties(tied)
    if any(there.get(key) != here.get(key) for key in tied):
        built = ", ".join(f"{key} {there.get(key, 'none')}" for key in tied)
        now = ", ".join(f"{key} {here.get(key) or 'none'}" for key in tied)
        return f"built for {built}; here: {now}"
    if not info["built_for"]:
        return None
    capability = machine_properties(["compute_capability"])["compute_capability"]
    if any(_serves(sm, capability) for sm in info["built_for"]):
        return None
    return f"built for {', '.join(info['built_for'])}; here: {_sm(capability)}"


def _sm(capability: str | None) -> str:
    return f"sm{capability.replace('.', '')}" if capability else "no NVIDIA GPU"


def _serves(built: str, capability: str | None) -> bool:
    """Return True if an engine for ``built`` ("sm86"; "sm80+": it and later) runs on this GPU."""
    if capability is None:
        return False
    least = int(built.removeprefix("sm").rstrip("+"))
    version = int(capability.replace(".", ""))
    return version >= least if built.endswith("+") else version == least


def machine_properties(keys: list[str]) -> dict[str, str | None]:
    """Return a device's property, else a package's version, for each key; None if it is missing."""
    properties: dict[str, str | None] = {}
    device: Mapping[str, str] | None = None
    for key in keys:
        if key in _DEVICE_KEYS:
            device = _device() if device is None else device
            properties[key] = device.get(key)
        else:
            properties[key] = _version(key)
    return properties


_DEVICE_KEYS = ("machine", "cpu", "cpu_model", "simd", "gpu", "compute_capability", "driver")
_DISTRIBUTIONS = {
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "tensorrt_rtx": ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx"),
}


def _version(package: str) -> str | None:
    from importlib import metadata  # a third of this package's own import time

    for name in _DISTRIBUTIONS.get(package, (package,)):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def _device() -> dict[str, str]:
    return {"machine": platform.machine(), **_cpu(), **_gpu()}


def _cpu() -> dict[str, str]:
    """Return the properties that diffc writes at the build, in the same words."""
    try:
        text = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        text = ""
    lines = (line.partition(":") for line in text.splitlines())
    info = {key.strip(): value.strip() for key, _, value in lines}
    flags = sorted((info.get("flags") or info.get("Features") or "").split())
    model = " ".join(info.get(key, "") for key in ("vendor_id", "cpu family", "model")).strip()
    return {
        "cpu": info.get("model name") or platform.processor() or platform.machine(),
        "cpu_model": model,
        "simd": " ".join(f for f in flags if f.startswith(("avx", "amx", "sve", "asimd"))),
    }


def _gpu() -> dict[str, str]:
    """Return the properties of the NVIDIA GPU that this process uses; empty without one."""
    import shutil
    import subprocess

    tool = shutil.which("nvidia-smi")
    if tool is None:
        return {}
    query = [tool, "--query-gpu=uuid,name,compute_cap,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    rows = [[field.strip() for field in line.split(",")] for line in done.stdout.splitlines()]
    row = _first_visible(rows, os.environ.get("CUDA_VISIBLE_DEVICES"))
    return dict(zip(("gpu", "compute_capability", "driver"), row[1:], strict=False))


def _first_visible(rows: list[list[str]], chosen: str | None) -> list[str]:
    """Return the row of the GPU that CUDA uses first.

    Args:
        rows: nvidia-smi's rows: UUID, name, compute capability, driver.
        chosen: CUDA_VISIBLE_DEVICES: an index, or the start of a UUID. For a part of a GPU
            (MIG-...) the first row counts.

    Returns:
        [] if no GPU is visible.
    """
    first = "0" if chosen is None else chosen.split(",")[0].strip()
    if first.startswith("GPU-"):
        return next((row for row in rows if row[0].startswith(first)), [])
    index = 0 if first.startswith("MIG-") else int(first) if first.isdigit() else len(rows)
    return rows[index] if index < len(rows) else []


def check_files(folder: Path, info: Mapping[str, Any]) -> None:
    """Raise UnfitEngine for the first file that is missing or was altered since the build."""
    for name, expected in info["files"].items():
        path = folder / name
        if not path.is_file():
            raise UnfitEngine(f"{path} is missing")
        if file_digest(path) != expected:
            raise UnfitEngine(f"{path} was cut or altered since it was built")
