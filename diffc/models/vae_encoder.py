"""The encoder of a pipeline's VAE as an ONNX folder, with what torch gave on a few pictures.

The graph gives the posterior of the latents: the mean, and after it the logarithm of the variance,
as channels (B, 2 C, h, w). Of a VAE without a posterior it gives the latents (B, C, h, w), and
model.json says ``"posterior": false``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from diffc.models.autoencoders import Autoencoder
from diffc_export.onnx.export import GraphOptions, export_onnx
from diffc_export.specs import Inputs, TensorSpec
from diffc_export.targets.onnx_file import REFERENCE, Size, reference_prefix
from diffc_runtime.json_types import JsonDict

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

REFERENCE_ROWS = 4
_COARSE = 4
"""The height and width of random pictures that are scaled up, for the large shapes of a picture."""
_FINE = 0.2
"""The weight of the noise that is added to them, so that it has small ones."""


def export_vae_encoder(
    vae: AutoencoderKL,
    known: Autoencoder,
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
        known: The facts of its class.
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
    parts = (vae.encoder, getattr(vae, "quant_conv", None))
    facts: JsonDict = {
        "class_name": type(vae).__name__,
        "parameters": sum(p.numel() for part in parts if part for p in part.parameters()),
    }
    if not known.has_posterior:
        facts["posterior"] = False
    factor = known.factor(dict(vae.config))
    options = GraphOptions(
        opset=opset, simplify=simplify, facts=facts, sizes=sizes, multiple=factor if sizes else 1
    )
    described = export_onnx(vae, known.encode, [spec], folder, examples=_examples, options=options)
    _write_reference(partial(known.encode, vae), shape, sizes[1:], folder / REFERENCE)
    return described


def _examples(specs: Sequence[TensorSpec], batch: int, generator: torch.Generator) -> Inputs:
    return {spec.name: _pictures((batch, *spec.shape), generator) for spec in specs}


def _pictures(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Random pictures (N, C, H, W) in [-1, 1], with large shapes and with small ones."""
    coarse = torch.rand(*shape[:2], _COARSE, _COARSE, generator=generator) * 2 - 1
    large = functional.interpolate(coarse, shape[2:], mode="bilinear")
    return (large + _FINE * torch.randn(shape, generator=generator)).clamp(-1, 1)


def _write_reference(
    encode: Callable[[Inputs], Tensor],
    shape: tuple[int, int, int],
    others: Sequence[Size],
    path: Path,
) -> None:
    """Write pictures and what torch made of them, at every size."""
    from safetensors.torch import save_file

    generator, tensors = torch.Generator().manual_seed(0), dict[str, Tensor]()
    for prefix, size in (("", shape[1:]), *((reference_prefix(size), size) for size in others)):
        pictures = _pictures((REFERENCE_ROWS, shape[0], *size), generator)
        with torch.no_grad():
            tensors[f"{prefix}output"] = encode({"sample": pictures}).contiguous()
        tensors[f"{prefix}input.sample"] = pictures
    save_file(tensors, path)
