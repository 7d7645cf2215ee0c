"""Example inputs: values of the right kind and range for a family's specs.

They serve tracing, export and parity where there are no data. Samples and embeddings are standard
normal; timesteps are whole numbers below 1000; inputs with a meaning of their own (labels, masks,
position ids, sizes) get the example in their spec.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diffc_export.specs import Inputs, TensorSpec
from diffc_runtime.json_types import JsonObject


def example_inputs(
    specs: Sequence[TensorSpec],
    config: JsonObject,
    batch: int = 1,
    generator: torch.Generator | None = None,
) -> Inputs:
    """Return one value for each spec, (batch, *shape), on the CPU.

    Args:
        specs: The inputs.
        config: The denoiser's config.
        batch: The number of rows.
        generator: The source of random values; None: torch's default generator.
    """
    return {spec.name: _value(spec, config, batch, generator) for spec in specs}


def meta_inputs(specs: Sequence[TensorSpec], batch: int = 1) -> Inputs:
    """Return inputs of the same shapes and dtypes on the meta device, for tracing and counting."""
    return {
        spec.name: torch.empty(batch, *spec.shape, dtype=dtype_of(spec), device="meta")
        for spec in specs
    }


def dtype_of(spec: TensorSpec) -> torch.dtype:
    """Return the torch dtype of a spec."""
    dtype = getattr(torch, spec.dtype)
    assert isinstance(dtype, torch.dtype)
    return dtype


def _value(
    spec: TensorSpec, config: JsonObject, batch: int, generator: torch.Generator | None
) -> Tensor:
    if spec.kind == "timestep":
        return torch.randint(1000, (batch,), generator=generator).to(dtype_of(spec))
    if spec.dtype == "int64" and isinstance(spec.example, range | None):
        numbers = spec.example or range(int(config.get("num_class_embeds") or 1))
        places = torch.randint(len(numbers), (batch, *spec.shape), generator=generator)
        return numbers.start + numbers.step * places
    if spec.example is None:
        return torch.randn(batch, *spec.shape, generator=generator).to(dtype_of(spec))
    row = torch.tensor(spec.example, dtype=dtype_of(spec))
    return row.expand(batch, *spec.shape).clone()
