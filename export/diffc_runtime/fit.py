"""Does an engine fit this machine? What it was built for against what is here.

Reads files and package metadata, and runs ``nvidia-smi``; loads no engine runtime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import loaders
from .machine import cpu, gpu, packages


def misfit(info: Mapping[str, Any]) -> str | None:
    """Why the engine cannot run here: what it was built for, and what is here; None when it can."""
    unknown = loaders.why_none(info["target"])
    if unknown is not None:
        return unknown
    difference = tied_difference(info, machine_properties(info["tied_to"]))
    if difference is not None:
        built, now = difference
        return f"built for {built}; here: {now}"
    if not info["built_for"]:
        return None
    capability = machine_properties(["compute_capability"])["compute_capability"]
    if any(runs_on(sm, capability) for sm in info["built_for"]):
        return None
    return f"built for {', '.join(info['built_for'])}; here: {_sm(capability)}"


def tied_difference(
    info: Mapping[str, Any], here: Mapping[str, str | None]
) -> tuple[str, str] | None:
    """Compare what an engine is tied to with this machine.

    Args:
        info: The content of engine.json.
        here: This machine's versions and device, by the same keys as the engine's.

    Returns:
        (what the engine was built for, what is here) in words, or None if they are the same.
    """
    there = {**info["device"], **info["versions"]}
    tied = list(info["tied_to"])
    if all(there.get(key) == here.get(key) for key in tied):
        return None
    built = ", ".join(f"{key} {there.get(key, 'none')}" for key in tied)
    now = ", ".join(f"{key} {here.get(key) or 'none'}" for key in tied)
    return built, now


def _sm(capability: str | None) -> str:
    return f"sm{capability.replace('.', '')}" if capability else "no NVIDIA GPU"


def runs_on(built: str, capability: str | None) -> bool:
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
