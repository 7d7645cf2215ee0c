"""Example inputs: values of the right kind and range for a family's specs.

For tracing, export and parity where no data is at hand. Samples and embeddings are standard normal;
what has a meaning of its own (timesteps, labels, masks, position ids, sizes) gets values that the
model's pipeline could give it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from diffc_export.specs import Inputs, TensorSpec
from torch import Tensor


def example_inputs(
    specs: Sequence[TensorSpec],
    config: Mapping[str, Any],
    batch: int = 1,
    generator: torch.Generator | None = None,
) -> Inputs:
    """One value for each spec, (batch, *shape), on the CPU. config: the denoiser's."""
    return {spec.name: _value(spec, config, batch, generator) for spec in specs}


def meta_inputs(specs: Sequence[TensorSpec], batch: int = 1) -> Inputs:
    """The same shapes and dtypes on the meta device, for tracing and counting."""
    return {
        spec.name: torch.empty(batch, *spec.shape, dtype=dtype_of(spec), device="meta")
        for spec in specs
    }


def dtype_of(spec: TensorSpec) -> torch.dtype:
    """The torch dtype of a spec."""
    dtype = getattr(torch, spec.dtype)
    assert isinstance(dtype, torch.dtype)
    return dtype


def _value(
    spec: TensorSpec, config: Mapping[str, Any], batch: int, generator: torch.Generator | None
) -> Tensor:
    if spec.name in _CONSTANTS:
        row = _CONSTANTS[spec.name](spec).to(dtype_of(spec))
        return row.expand(batch, *spec.shape).clone()
    if spec.kind == "timestep":
        return torch.randint(1000, (batch,), generator=generator).to(dtype_of(spec))
    if spec.name == "class_labels" and spec.dtype == "int64":
        classes = config.get("num_class_embeds") or config.get("num_embeds_ada_norm") or 1
        return torch.randint(int(classes), (batch,), generator=generator)
    return torch.randn(batch, *spec.shape, generator=generator).to(dtype_of(spec))


def _grid(spec: TensorSpec) -> Tensor:
    """Flux's (0, row, column) of each token (S, 3), on the squarest grid of S tokens."""
    tokens, axes = spec.shape
    height = next(h for h in range(math.isqrt(tokens), 0, -1) if tokens % h == 0)
    ids = torch.zeros(tokens, axes)
    places = torch.arange(tokens)
    ids[:, -2], ids[:, -1] = places // (tokens // height), places % (tokens // height)
    return ids


_CONSTANTS: Mapping[str, Callable[[TensorSpec], Tensor]] = {
    "encoder_attention_mask": lambda spec: torch.ones(spec.shape),
    "img_ids": _grid,
    "txt_ids": lambda spec: torch.zeros(spec.shape),
    "guidance": lambda _spec: torch.tensor(3.5),
    # SDXL: original size, crop corner, target size; the refiner's last is its aesthetic score
    "time_ids": lambda spec: torch.tensor(
        [1024.0, 1024, 0, 0, 1024, 1024] if spec.shape[0] == 6 else [1024.0, 1024, 0, 0, 6]
    ),
    "resolution": lambda _spec: torch.tensor([1024.0, 1024.0]),
    "aspect_ratio": lambda _spec: torch.tensor([1.0]),
}
