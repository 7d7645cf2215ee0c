"""The VAE decoder of a latent pipeline: exported and built once, beside the two denoisers.

A server that makes images needs it; it is neither cut nor lowered, since a decoder in half
precision overflows in some published VAEs, and takes one call where the denoiser takes fifty.

    OUT/onnx/decoder    OUT/engines/TARGET/decoder
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from diffc.models.components import Component
from diffc.models.families import family, family_names
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
from diffc_export.targets.onnx_file import DESCRIPTION
from diffc_runtime.json_types import JsonDict


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
    """OUT/onnx/decoder, or None where the pipeline has no VAE of a family to export."""
    vae = source.vae
    if vae is None or _vae_class(vae) not in family_names():
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
    described = _export(inputs, folder.out / DECODER)
    return ExportOutcome(sha256=described["sha256"], parameters=described["parameters"])


def _export(inputs: DecoderInputs, folder: Path) -> JsonDict:
    from dataclasses import replace

    from diffc.data.latents import latent_factors, load_vae
    from diffc.models.onnx_export import export_denoiser

    source = inputs.denoiser.source
    latent = next(spec for spec in inputs.shape.specs(source) if spec.kind == "sample").shape
    assert inputs.vae.source.vae is not None
    vae, known = load_vae(inputs.vae.source).cpu(), family(_vae_class(inputs.vae.source.vae))
    specs = known.specs(dict(vae.config), (latent[-2], latent[-1]))
    if len(latent) == 3 and latent[0] == specs[0].shape[0]:
        specs = [replace(specs[0], shape=latent)]
    scale, shift = latent_factors(dict(vae.config))
    facts = {
        "scaling_factor": scale,
        "shift_factor": shift,
        "parameters": sum(p.numel() for p in vae.decoder.parameters()),
    }
    options = inputs.options
    return export_denoiser(
        vae,
        known,
        specs,
        folder,
        opset=options.opset,
        simplify=options.simplify,
        facts=facts,
        sizes=options.sizes,
    )


def _vae_class(vae: Component) -> str:
    return str(vae.config.get("_class_name", ""))


def decoder_build_stage(
    out: Path, recipe: Recipe, name: str
) -> Stage[build.BuildInputs, BuildOutcome] | None:
    """OUT/engines/TARGET/decoder in fp32; None without OUT/onnx/decoder or a use for it."""
    from diffc_export.targets import target

    served = target(name).facts.loader is not None
    if not served or not (out / "onnx" / DECODER / DESCRIPTION).is_file():
        return None
    whole = recipe.build.model_copy(update={"precision": "fp32"})
    return build.build_stage(out, recipe.model_copy(update={"build": whole}), name, DECODER)
