"""The engine of a VAE's encoder against torch: mean and variance each on their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from diffc.measure.parity import part_errors, read_reference
from diffc_export.targets.base import Array, LoadedEngine
from diffc_export.targets.onnx_file import reference_prefix

PARTS = ("mean", "log_variance")


def posterior_errors(runner: LoadedEngine, reference: Path) -> dict[str, float]:
    """Return the relative L2 error |engine - torch| / |torch| of mean and log variance.

    The worst of the sizes and the batch sizes that the engine was built for counts. An output that
    is not finite has an infinite error.

    Args:
        runner: The engine.
        reference: What torch gave.

    Raises:
        InputError: The reference is missing, damaged or of another model.
    """
    tensors = read_reference(reference, runner)
    (images,) = runner.info.inputs
    parts = _parts if runner.info.source.get("posterior", True) else _mean_alone
    errors = dict[str, float]()
    for prefix in ("", *(reference_prefix(size) for size in runner.info.sizes[1:])):
        inputs = {images.name: tensors[f"{prefix}input.{images.name}"]}
        at_size = part_errors(runner, inputs, tensors[f"{prefix}output"], parts)
        errors = {name: max(errors.get(name, 0.0), error) for name, error in at_size.items()}
    return errors


def _mean_alone(output: Array) -> dict[str, Array]:
    """Of a VAE without a posterior."""
    return {PARTS[0]: output}


def _parts(output: Array) -> dict[str, Array]:
    return dict(zip(PARTS, np.split(output, 2, axis=1), strict=True))
