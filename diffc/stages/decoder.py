"""The VAE decoder of a latent pipeline: exported and built once, beside the two denoisers.

A server that makes images needs it; it is neither cut nor lowered, since a decoder in half
precision overflows in some published VAEs, and takes one call where the denoiser takes fifty.

    OUT/onnx/decoder    OUT/engines/TARGET/decoder
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from diffc.models.autoencoders import Autoencoder, autoencoder
from diffc.models.source import Source
from diffc.output import DECODER
from diffc.recipe import ExportSection, Recipe
from diffc.runner import Stage, StageFolder
from diffc.stage_inputs import ModelInput, RunShape
from diffc.stage_outcomes import BuildOutcome, ExportOutcome
from diffc.stages import build
from diffc.stages.data import model_packages, pipeline_facts
from diffc.stages.export import EXPORT_PACKAGES
from diffc_export.events import Progress, Work
from diffc_export.specs import TensorSpec
from diffc_export.targets.onnx_file import DESCRIPTION
from diffc_runtime.json_types import JsonDict

if TYPE_CHECKING:
    from torch import Generator

    from diffc_export.specs import Inputs


@dataclass(frozen=True)
class DecoderInputs:
    """What the decoder's ONNX folder follows from.

    Attributes:
        vae: The VAE.
        pipeline: What decides the denoiser's inputs beside it: the index and the tokenizers.
        denoiser: The dense model, whose samples are decoded.
        options: How to export.
        shape: What the denoiser's inputs are like.
    """

    vae: ModelInput
    pipeline: ModelInput
    denoiser: ModelInput
    options: ExportSection
    shape: RunShape


def decoder_stage(source: Source, recipe: Recipe) -> Stage[DecoderInputs, ExportOutcome] | None:
    """The stage that exports OUT/onnx/decoder; None for a pipeline without a known VAE."""
    if source.vae is None or autoencoder(source.vae.class_name) is None:
        return None
    inputs = DecoderInputs(
        vae=ModelInput.vae(source),
        pipeline=ModelInput(source, pipeline_facts(source)),
        denoiser=ModelInput.denoiser(source),
        options=recipe.export,
        shape=RunShape.of(recipe),
    )
    packages = (*model_packages(source), *EXPORT_PACKAGES)
    places = {DECODER: f"onnx/{DECODER}"}
    return Stage(f"export-{DECODER}", 4, inputs, export_decoder, ExportOutcome, places, packages)


def export_decoder(inputs: DecoderInputs, folder: StageFolder) -> Work[ExportOutcome]:
    """Write the ONNX folder of the VAE's decoder."""
    yield Progress(0, 1, "exporting the VAE's decoder")
    described = export_vae_decoder(inputs, folder.out / DECODER)
    return ExportOutcome(sha256=described["sha256"], parameters=described["parameters"])


def export_vae_decoder(
    inputs: DecoderInputs, folder: Path, beside: Sequence[TensorSpec] = ()
) -> JsonDict:
    """Write the ONNX folder of a VAE's decoder; its weights stay in their files meanwhile.

    Args:
        inputs: What the folder follows from.
        folder: The folder to write.
        beside: The inputs beside the latents: image and mask, or none.

    Returns:
        The content of model.json.
    """
    from diffc.data.latents import latent_factors, mapped_vae
    from diffc.models.families.base import sample_shape
    from diffc.models.families.examples import example_inputs
    from diffc_export.onnx.export import GraphOptions, export_onnx

    shape = sample_shape(inputs.shape.specs(inputs.denoiser.source))
    known = vae_kind(inputs.vae.source)
    specs = [TensorSpec("sample", (shape[0], *shape[-2:]), kind="sample"), *beside]
    call = known.decode_masked if beside else known.decode
    with mapped_vae(inputs.vae.source) as vae:
        config: JsonDict = dict(vae.config)
        scale, shift = latent_factors(config)
        facts = {
            "class_name": type(vae).__name__,
            "scaling_factor": scale,
            "shift_factor": shift,
            "parameters": sum(p.numel() for p in vae.decoder.parameters()),
        }
        options = GraphOptions(
            opset=inputs.options.opset,
            simplify=inputs.options.simplify,
            facts=facts,
            sizes=inputs.options.sizes,
        )

        def examples(wanted: Sequence[TensorSpec], batch: int, generator: Generator) -> Inputs:
            return example_inputs(wanted, config, batch, generator)

        return export_onnx(vae, call, specs, folder, examples=examples, options=options)


def vae_kind(source: Source) -> Autoencoder:
    """Return the facts of the class of a VAE that is exported."""
    known = autoencoder(source.vae.class_name) if source.vae is not None else None
    assert known is not None
    return known


def decoder_notes(source: Source) -> list[str]:
    """Say it where diffusers alone decodes by the pipeline's VAE."""
    if source.vae is None:
        return []
    name = source.vae.class_name
    known = autoencoder(name)
    if known is None:
        return [f"engines give latents and no images: diffc exports no decoder of {name}"]
    return []


def decoder_build_stage(
    out: Path, recipe: Recipe, name: str
) -> Stage[build.BuildInputs, BuildOutcome] | None:
    """The stage that builds OUT/engines/TARGET/decoder, in fp32.

    None without OUT/onnx/decoder or a use for it.
    """
    from diffc_export.targets import target

    served = target(name).facts.loader is not None
    if not served or not (out / "onnx" / DECODER / DESCRIPTION).is_file():
        return None
    whole = recipe.build.model_copy(update={"precision": "fp32"})
    return build.build_stage(out, recipe.model_copy(update={"build": whole}), name, DECODER)
