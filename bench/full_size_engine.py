"""The step of ``bench.full_size`` that takes a network that was cut to an engine of OpenVINO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from diffc.measure.parity import TOLERANCE


def engine(_name: str, folder: Path) -> dict[str, Any]:
    """The engine of the cut network of ``blocks``, at its size, in fp32."""
    import torch

    from bench.full_size import size_of
    from diffc.models.families import family as family_of
    from diffc.models.families.examples import example_inputs
    from diffc.models.mapped import mapped_denoiser
    from diffc.models.onnx_export import export_denoiser
    from diffc.models.source import find_source
    from diffc_export.events import drain
    from diffc_export.targets import target
    from diffc_export.targets.base import BuildOptions
    from diffc_export.targets.engine import read_info

    source, place = find_source(folder / "out" / "model"), folder / "cut"
    openvino = target("openvino")
    family = family_of(source.class_name)
    with mapped_denoiser(source) as model:
        specs = family.specs(model.config)
        inputs = example_inputs(specs, model.config, 1, torch.Generator().manual_seed(1))
        with torch.no_grad():
            expected = family.call(model, inputs).numpy()
        export_denoiser(model, family, specs, place / "onnx")
        count = sum(p.numel() for p in model.parameters())
    drain(openvino.build(place / "onnx", BuildOptions(), place / "engine"))
    runner = openvino.load(place / "engine")
    try:
        (given,) = runner({k: v.numpy() for k, v in inputs.items()}).values()
    finally:
        runner.close()
    return {
        "parameters": count,
        "bytes": size_of(place / "onnx"),
        "engine_bytes": read_info(place / "engine").engine_bytes,
        "error": error_of(given, expected),
    }


def error_of(given: np.ndarray, expected: np.ndarray) -> float:
    """The relative L2 error to torch. Raises SystemExit above the tolerance."""
    error = float(np.linalg.norm(given - expected) / np.linalg.norm(expected))
    if not error <= TOLERANCE["fp32"]:
        raise SystemExit(f"OpenVINO is {error:.1e} from torch")
    return error
