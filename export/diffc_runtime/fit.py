"""Does an engine fit this machine? What it was built for against what is here.

Reads files and package metadata, and runs ``nvidia-smi``; loads no engine runtime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import loaders
from .errors import UnfitEngine
from .files import file_digest
from .machine import cpu, gpu, packages


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


def machine_properties(keys: Sequence[str]) -> dict[str, str | None]:
    """Return a device's property, else a package's version, for each key; None if it is missing."""
    device = _device() if any(key in _DEVICE_KEYS for key in keys) else {}
    return {
        key: device.get(key) if key in _DEVICE_KEYS else packages.module_version(key)
        for key in keys
    }


_DEVICE_KEYS = ("machine", "cpu", "cpu_model", "simd", "gpu", "compute_capability", "driver")


def _device() -> dict[str, str]:
    return {**cpu.cpu_fingerprint(), **gpu.gpu_fingerprint()}


def check_files(folder: Path, info: Mapping[str, Any]) -> None:
    """Raise UnfitEngine for the first file that is missing or was altered since the build."""
    for name, expected in info["files"].items():
        path = folder / name
        if not path.is_file():
            raise UnfitEngine(f"{path} is missing")
        if file_digest(path) != expected:
            raise UnfitEngine(f"{path} was cut or altered since it was built")
