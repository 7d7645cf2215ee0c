"""The engine of a VAE's encoder against torch: mean and variance each on their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from diffc.measure.parity import read_reference, relative_l2, run_rows
from diffc_export.targets.base import LoadedEngine
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
    errors = dict.fromkeys(PARTS, 0.0)
    for prefix in ("", *(reference_prefix(size) for size in runner.info.sizes[1:])):
        inputs = {images.name: tensors[f"{prefix}input.{images.name}"]}
        expected = np.split(tensors[f"{prefix}output"], 2, axis=1)
        for batch in sorted(set(runner.info.batches)) or [1]:
            outputs = np.split(run_rows(runner, inputs, batch), 2, axis=1)
            for name, values, exact in zip(PARTS, outputs, expected, strict=True):
                error = relative_l2(values, exact)
                errors[name] = max(errors[name], error if error == error else float("inf"))
    return errors
