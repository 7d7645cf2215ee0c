"""Exports a denoiser of a known family as an ONNX folder, by diffc_export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffc.models.families.base import Family
from diffc.models.families.examples import example_inputs
from diffc.models.families.positions import computed_positions
from diffc_export.onnx.export import GraphOptions, export_onnx
from diffc_export.specs import Inputs, TensorSpec
from diffc_runtime.json_types import JsonDict, JsonObject


def export_denoiser(
    model: nn.Module,
    family: Family,
    specs: Sequence[TensorSpec],
    folder: Path,
    *,
    facts: JsonObject | None = None,
    **options: Any,
) -> JsonDict:
    """Write the ONNX folder of ``model``.

    Args:
        model: The denoiser.
        family: Its family.
        specs: Its inputs.
        folder: The folder to write.
        facts: More content for model.json than the class's name, inputs and output.
        options: The other fields of ``diffc_export.onnx.export.GraphOptions``.

    Returns:
        The content of model.json.

    Raises:
        InputError: torch cannot export the model; the message names the operator.
    """
    config = getattr(model, "config", {})

    def examples(wanted: Sequence[TensorSpec], batch: int, generator: torch.Generator) -> Inputs:
        return example_inputs(wanted, config, batch, generator)

    about = {"class_name": family.class_name, **(facts or {})}
    chosen = GraphOptions(facts=about, most_side=family.largest_side(config), **options)
    if not chosen.sizes:
        return export_onnx(model, family.call, specs, folder, examples=examples, options=chosen)
    with computed_positions(model):
        return export_onnx(
            model, family.sized_call, specs, folder, examples=examples, options=chosen
        )
