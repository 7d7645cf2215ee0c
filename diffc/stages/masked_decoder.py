"""The VAE's decoder with image and mask, where diffusers' inpainting gives it these.

AsymmetricAutoencoderKL's decoder fills in what a mask leaves open, and takes the rest from the
image. It is a second engine: a call without a mask needs no work on an image. As the decoder it is
neither cut nor lowered, and as the encoder it is compared with torch when it is built.

    OUT/onnx/masked-decoder    OUT/engines/TARGET/masked-decoder
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from diffc.models.autoencoders import autoencoder, full_config
from diffc.models.families import family
from diffc.models.source import Source
from diffc.output import MASKED_DECODER
from diffc.recipe import Recipe
from diffc.runner import Stage, StageFolder
from diffc.stage_outcomes import ComparedEngineOutcome, ExportOutcome
from diffc.stages.decoder import DecoderInputs, decoder_stage, export_vae_decoder, vae_kind
from diffc.stages.vae_encoder import ComparedBuildInputs, build_compared, compared_build_stage
from diffc_export.events import Progress, Work
from diffc_export.specs import TensorSpec
from diffc_export.targets.onnx_file import REFERENCE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from diffc_export.targets.base import Array, LoadedEngine

REFERENCE_ROWS = 2
"""Of what torch gave."""


def decodes_masked(source: Source) -> bool:
    """Return True if the VAE's decoder takes image and mask as diffusers' inpainting gives them.

    The inpainting pipelines of Stable Diffusion XL give them to no VAE.
    """
    part = source.vae
    known = None if part is None else autoencoder(part.class_name)
    if part is None or known is None or not known.takes_masked_image:
        return False
    pipeline = str(source.index.get("_class_name", ""))
    return "XL" not in pipeline and known.fits_mask(full_config(part))


def masked_decoder_notes(source: Source, recipe: Recipe) -> list[str]:
    """Say it where images that are filled in differ from diffusers', for their many sizes."""
    if decodes_masked(source) and recipe.export.sizes:
        return [
            "images that are filled in by a mask differ from diffusers': of several resolutions, "
            "the VAE's decoder gets neither image nor mask"
        ]
    return []


def masked_decoder_stage(
    source: Source, recipe: Recipe
) -> Stage[DecoderInputs, ExportOutcome] | None:
    """The stage that exports OUT/onnx/masked-decoder; None where there is nothing to export."""
    decoder = decoder_stage(source, recipe)
    if decoder is None or not family(source.class_name).is_denoiser:
        return None
    if not decodes_masked(source) or recipe.export.sizes:
        return None
    places = {MASKED_DECODER: f"onnx/{MASKED_DECODER}"}
    name = f"export-{MASKED_DECODER}"
    return Stage(
        name, 1, decoder.inputs, export_masked_decoder, ExportOutcome, places, decoder.packages
    )


def export_masked_decoder(inputs: DecoderInputs, folder: StageFolder) -> Work[ExportOutcome]:
    """Write the ONNX folder of the VAE's decoder with image and mask, with what torch gave."""
    from diffc.data.latents import pixel_shape
    from diffc.models.families.base import sample_shape

    yield Progress(0, 1, "exporting the VAE's decoder with image and mask")
    source = inputs.denoiser.source
    latent = sample_shape(inputs.shape.specs(source))
    pixels = pixel_shape(source, (latent[0], *latent[-2:]))
    beside = masked_specs(pixels)
    described = export_vae_decoder(inputs, folder.out / MASKED_DECODER, beside)
    sample = TensorSpec("sample", (latent[0], *latent[-2:]), kind="sample")
    _write_reference(inputs, [sample, *beside], folder.out / MASKED_DECODER / REFERENCE)
    return ExportOutcome(sha256=described["sha256"], parameters=described["parameters"])


def masked_specs(pixels: tuple[int, int, int]) -> list[TensorSpec]:
    """The inputs beside the latents, of images (C, H, W)."""
    return [
        TensorSpec("image", pixels, kind="condition"),
        TensorSpec("mask", (1, *pixels[1:]), kind="condition"),
    ]


def _write_reference(inputs: DecoderInputs, specs: Sequence[TensorSpec], path: Path) -> None:
    """Write latents, images and masks, and what torch decoded of them."""
    import torch
    from safetensors.torch import save_file

    from diffc.data.latents import mapped_vae

    generator = torch.Generator().manual_seed(0)
    given: Mapping[str, Tensor] = {
        spec.name: torch.randn(REFERENCE_ROWS, *spec.shape, generator=generator) for spec in specs
    }
    given = {name: (v > 0).float() if name == "mask" else v for name, v in given.items()}
    with mapped_vae(inputs.vae.source) as vae, torch.no_grad():
        output = vae_kind(inputs.vae.source).decode_masked(vae, given).contiguous()
    save_file({"output": output, **{f"input.{name}": v for name, v in given.items()}}, path)


def masked_decoder_build_stage(
    out: Path, recipe: Recipe, name: str
) -> Stage[ComparedBuildInputs, ComparedEngineOutcome] | None:
    """The stage that builds OUT/engines/TARGET/masked-decoder, in fp32.

    None without OUT/onnx/masked-decoder or a use for it.
    """
    return compared_build_stage(out, recipe, name, MASKED_DECODER, build_masked_decoder)


def build_masked_decoder(
    inputs: ComparedBuildInputs, folder: StageFolder
) -> Work[ComparedEngineOutcome]:
    """Build the engine, and compare it with torch where it runs here.

    Raises:
        CheckFailed: The engine does not compute what torch computes.
    """
    return (yield from build_compared(inputs, folder, "decoder with image and mask", _errors))


def _errors(runner: LoadedEngine, reference: Path) -> dict[str, float]:
    """The relative L2 error of the images. Raises InputError: ``reference`` is damaged."""
    from diffc.measure.parity import part_errors, read_reference

    def images(output: Array) -> dict[str, Array]:
        return {"images": output}

    tensors = read_reference(reference, runner)
    given = {spec.name: tensors[f"input.{spec.name}"] for spec in runner.info.inputs}
    return part_errors(runner, given, tensors["output"], images)
