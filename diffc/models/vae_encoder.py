"""The encoder of a pipeline's VAE as an ONNX folder, with what torch gave on a few pictures.

The graph gives the posterior of the latents: the mean, and after it the logarithm of the variance,
as channels (B, 2 C, h, w).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffc_export.onnx.export import GraphOptions, export_onnx
from diffc_export.specs import Inputs, TensorSpec
from diffc_export.targets.onnx_file import REFERENCE, Size, reference_prefix
from diffc_runtime.json_types import JsonDict

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

REFERENCE_ROWS = 4
_COARSE = 4
"""The side of the random pictures that are scaled up, so that a picture has large shapes."""
_FINE = 0.2
"""The weight of the noise that is added to them, so that it has small ones."""


def posterior(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return mean and logarithm of the variance (B, 2 C, h, w) of the latents of images."""
    moments: Tensor = model.encode(inputs["sample"]).latent_dist.parameters  # type: ignore[operator]
    return moments


def export_vae_encoder(
    vae: AutoencoderKL,
    shape: tuple[int, int, int],
    folder: Path,
    *,
    opset: int,
    simplify: bool,
    sizes: Sequence[Size] = (),
) -> JsonDict:
    """Write the encoder's ONNX folder.

    Args:
        vae: The VAE, on the CPU.
        shape: (C, H, W) of the images.
        folder: The folder to write.
        opset: ONNX's.
        simplify: True lets onnxslim simplify the graph.
        sizes: Every (H, W) of the images that the file serves, that of ``shape`` first; empty for
            that one alone.

    Returns:
        The content of model.json.

    Raises:
        InputError: torch cannot export the encoder.
    """
    spec = TensorSpec("sample", shape, kind="sample")
    parts = (vae.encoder, vae.quant_conv)
    facts = {
        "class_name": type(vae).__name__,
        "parameters": sum(p.numel() for part in parts if part for p in part.parameters()),
    }
    factor = 2 ** (len(vae.config["block_out_channels"]) - 1)
    options = GraphOptions(
        opset=opset, simplify=simplify, facts=facts, sizes=sizes, multiple=factor if sizes else 1
    )
    described = export_onnx(vae, posterior, [spec], folder, examples=_examples, options=options)
    _write_reference(vae, shape, sizes[1:], folder / REFERENCE)
    return described


def _examples(specs: Sequence[TensorSpec], batch: int, generator: torch.Generator) -> Inputs:
    return {spec.name: _pictures((batch, *spec.shape), generator) for spec in specs}


def _pictures(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Random pictures (N, C, H, W) in [-1, 1], with large shapes and with small ones."""
    coarse = torch.rand(*shape[:2], _COARSE, _COARSE, generator=generator) * 2 - 1
    large = functional.interpolate(coarse, shape[2:], mode="bilinear")
    return (large + _FINE * torch.randn(shape, generator=generator)).clamp(-1, 1)


def _write_reference(
    vae: AutoencoderKL, shape: tuple[int, int, int], others: Sequence[Size], path: Path
) -> None:
    """Write pictures and what torch made of them, at every size."""
    from safetensors.torch import save_file

    generator, tensors = torch.Generator().manual_seed(0), dict[str, Tensor]()
    for prefix, size in (("", shape[1:]), *((reference_prefix(size), size) for size in others)):
        pictures = _pictures((REFERENCE_ROWS, shape[0], *size), generator)
        with torch.no_grad():
            tensors[f"{prefix}output"] = posterior(vae, {"sample": pictures}).contiguous()
        tensors[f"{prefix}input.sample"] = pictures
    save_file(tensors, path)
