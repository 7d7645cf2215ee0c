"""A denoiser of a known family -> an ONNX folder, by diffc_export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffc_export.onnx.export import export_onnx
from diffc_export.specs import Inputs, TensorSpec
from torch import nn

from diffc.models.families.base import Family
from diffc.models.families.examples import example_inputs


def export_denoiser(
    model: nn.Module,
    family: Family,
    specs: Sequence[TensorSpec],
    folder: Path,
    *,
    facts: Mapping[str, Any] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Write the ONNX folder of ``model``; returns model.json.

    Args:
        facts: what model.json holds besides the class's name, inputs and output.
        options: as ``diffc_export.onnx.export.export_onnx`` takes them.

    Raises:
        InputError: when torch cannot export the model, naming the operator.
    """
    config = getattr(model, "config", {})

    def examples(wanted: Sequence[TensorSpec], batch: int, generator: torch.Generator) -> Inputs:
        return example_inputs(wanted, config, batch, generator)

    about = {"class_name": family.class_name, **(facts or {})}
    return export_onnx(model, family.call, specs, folder, examples=examples, facts=about, **options)
