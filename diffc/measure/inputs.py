"""The inputs that an engine is measured on: real noisy ones where there are some, else noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffc_export.targets.base import Array
from diffc_export.targets.engine import EngineInfo
from diffc_export.targets.onnx_file import InputSpec, Size, reference_prefix


def example_inputs(
    info: EngineInfo,
    batch: int,
    reference: Path | None = None,
    seed: int = 0,
    size: Size | None = None,
) -> dict[str, Array]:
    """Inputs (batch, ...) for an engine: rows of ``reference``, repeated to fill the batch.

    Without a reference, or with one of other inputs (another exporter's names, another precision):
    standard normal floats, timestep 500, zeros for other integers.

    Args:
        info: The engine.
        batch: The batch size.
        reference: The file of real inputs.
        seed: Of the noise.
        size: Of the sample, where the engine serves several; None: the working one.
    """
    if reference is not None and reference.is_file():
        rows = reference_inputs(reference, other_than_working(info.sizes, size))
        if all(_fits(rows.get(spec.name), spec, size) for spec in info.inputs):
            return {spec.name: fill(rows[spec.name], batch) for spec in info.inputs}
    generator = np.random.default_rng(seed)
    return {spec.name: _noise(spec, batch, generator, size) for spec in info.inputs}


def _fits(rows: Array | None, spec: InputSpec, size: Size | None) -> bool:
    return (
        rows is not None and rows.shape[1:] == spec.shape_at(size) and str(rows.dtype) == spec.dtype
    )


def other_than_working(sizes: Sequence[Size], size: Size | None) -> Size | None:
    """``size``, or None where it is the working one, which ``sizes`` name first."""
    return None if sizes and size == sizes[0] else size


def reference_inputs(reference: Path, size: Size | None = None) -> dict[str, Array]:
    """The inputs in a reference file by name, each (K, ...).

    Args:
        reference: The file.
        size: A size other than the working one; None: the working one.
    """
    from safetensors.numpy import load_file

    begin = f"{reference_prefix(size)}input."
    tensors = load_file(reference)
    return {
        key.removeprefix(begin): value for key, value in tensors.items() if key.startswith(begin)
    }


def fill(rows: Array, batch: int) -> Array:
    """``batch`` rows, taken in turn from ``rows`` (K, ...)."""
    filled: Array = np.ascontiguousarray(rows[np.arange(batch) % len(rows)])
    return filled


def _noise(spec: InputSpec, batch: int, generator: np.random.Generator, size: Size | None) -> Array:
    shape = (batch, *spec.shape_at(size))
    if spec.kind == "timestep" or spec.name == "timestep":
        return np.full(shape, 500, spec.dtype)
    if np.issubdtype(np.dtype(spec.dtype), np.floating):
        return generator.standard_normal(shape).astype(spec.dtype)
    return np.zeros(shape, spec.dtype)
