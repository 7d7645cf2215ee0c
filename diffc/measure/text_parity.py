"""A text encoder's engine against torch: every output on its own, so that none hides another."""

from __future__ import annotations

from pathlib import Path

from diffc.measure.parity import part_errors, read_reference
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
    return part_errors(runner, inputs, tensors["output"], lambda one: split_parts(one, parts))
