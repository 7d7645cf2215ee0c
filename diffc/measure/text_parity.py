"""A text encoder's engine against torch: every output on its own, so that none hides another."""

from __future__ import annotations

from pathlib import Path

from diffc.measure.parity import TOLERANCE, read_reference, relative_l2, run_rows
from diffc_export.targets.base import LoadedEngine
from diffc_runtime.prompts import split_parts


def text_errors(runner: LoadedEngine, reference: Path) -> dict[str, float]:
    """Return the relative L2 error |engine - torch| / |torch| of each output over all texts.

    The worst of the batch sizes that the engine was built for counts. An output that is not finite
    has an infinite error.

    Args:
        runner: The engine.
        reference: What torch gave.

    Raises:
        InputError: The reference is missing, damaged or of another model.
    """
    tensors = read_reference(reference, runner)
    inputs = {spec.name: tensors[f"input.{spec.name}"] for spec in runner.info.inputs}
    parts = [(str(name), tuple(shape)) for name, shape in runner.info.source["parts"]]
    expected = split_parts(tensors["output"], parts)
    errors = dict.fromkeys(expected, 0.0)
    for batch in sorted(set(runner.info.batches)) or [1]:
        outputs = split_parts(run_rows(runner, inputs, batch), parts)
        for name, value in outputs.items():
            error = relative_l2(value, expected[name])
            errors[name] = max(errors[name], error if error == error else float("inf"))
    return errors


def passes(errors: dict[str, float], precision: str) -> bool:
    """Return True if every error is within the limit of a precision (``parity.TOLERANCE``)."""
    return max(errors.values()) <= TOLERANCE[precision]
