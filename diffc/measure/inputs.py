"""What an engine is measured on: real noisy inputs where there are some, else seeded noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from diffc.targets.base import Array
from diffc.targets.engine import EngineInfo
from diffc.targets.onnx_file import InputSpec


def example_inputs(
    info: EngineInfo, batch: int, reference: Path | None = None, seed: int = 0
) -> dict[str, Array]:
    """Inputs (batch, ...) for an engine: rows of ``reference``, repeated to fill the batch.

    Without a reference, or with one of other inputs (another exporter's names, another precision):
    standard normal floats, timestep 500, zeros for other integers.
    """
    if reference is not None and reference.is_file():
        rows = reference_inputs(reference)
        if all(_fits(rows.get(spec.name), spec) for spec in info.inputs):
            return {spec.name: fill(rows[spec.name], batch) for spec in info.inputs}
    generator = np.random.default_rng(seed)
    return {spec.name: _noise(spec, batch, generator) for spec in info.inputs}


def _fits(rows: Any, spec: InputSpec) -> bool:
    return rows is not None and rows.shape[1:] == spec.shape and str(rows.dtype) == spec.dtype


def reference_inputs(reference: Path) -> dict[str, Array]:
    """``input.NAME`` of a reference file, by NAME, each (K, ...)."""
    from safetensors.numpy import load_file

    tensors = load_file(reference)
    return {key[6:]: value for key, value in tensors.items() if key.startswith("input.")}


def fill(rows: Any, batch: int) -> Array:
    """``batch`` rows, taken in turn from ``rows`` (K, ...)."""
    filled: Array = np.ascontiguousarray(rows[np.arange(batch) % len(rows)])
    return filled


def _noise(spec: InputSpec, batch: int, generator: np.random.Generator) -> Array:
    shape = (batch, *spec.shape)
    if spec.kind == "timestep" or spec.name == "timestep":
        return np.full(shape, 500, spec.dtype)
    if np.issubdtype(np.dtype(spec.dtype), np.floating):
        return generator.standard_normal(shape).astype(spec.dtype)
    return np.zeros(shape, spec.dtype)
