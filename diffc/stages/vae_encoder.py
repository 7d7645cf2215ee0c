"""The VAE's encoder, with which image-to-image and inpainting begin: exported and built once.

As the decoder it is neither cut nor lowered. Its engine is compared with torch when it is built.

    OUT/onnx/encoder    OUT/engines/TARGET/encoder
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from diffc.errors import CheckFailed
from diffc.models.families import family
from diffc.models.source import Source
from diffc.output import VAE_ENCODER
from diffc.recipe import Recipe
from diffc.runner import Stage, StageFolder
from diffc.stage_inputs import FileInput
from diffc.stage_outcomes import ComparedEngineOutcome, ExportOutcome
from diffc.stages import build
from diffc.stages.build import ENGINE, BuildInputs
from diffc.stages.decoder import DecoderInputs, decoder_stage, vae_kind
from diffc_export.events import Progress, Work
from diffc_export.targets.onnx_file import DESCRIPTION, REFERENCE

if TYPE_CHECKING:
    from diffc_export.targets.base import LoadedEngine


def vae_encoder_stage(source: Source, recipe: Recipe) -> Stage[DecoderInputs, ExportOutcome] | None:
    """The stage that exports OUT/onnx/encoder; None where OUT has no decoder either."""
    decoder = decoder_stage(source, recipe)
    if decoder is None or not family(source.class_name).is_denoiser:
        return None
    places = {VAE_ENCODER: f"onnx/{VAE_ENCODER}"}
    name = f"export-{VAE_ENCODER}"
    return Stage(name, 1, decoder.inputs, export_encoder, ExportOutcome, places, decoder.packages)


def export_encoder(inputs: DecoderInputs, folder: StageFolder) -> Work[ExportOutcome]:
    """Write the ONNX folder of the VAE's encoder, with what torch gave."""
    from diffc.data.latents import mapped_vae, pixel_shape, scale_factor
    from diffc.models.families.base import sample_shape
    from diffc.models.vae_encoder import export_vae_encoder

    yield Progress(0, 1, "exporting the VAE's encoder")
    source, options = inputs.denoiser.source, inputs.options
    factor = scale_factor(source)
    with mapped_vae(inputs.vae.source) as vae:
        described = export_vae_encoder(
            vae,
            vae_kind(inputs.vae.source),
            pixel_shape(source, sample_shape(inputs.shape.specs(source))),
            folder.out / VAE_ENCODER,
            opset=options.opset,
            simplify=options.simplify,
            sizes=[(height * factor, width * factor) for height, width in options.sizes],
        )
    return ExportOutcome(sha256=described["sha256"], parameters=described["parameters"])


@dataclass(frozen=True)
class ComparedBuildInputs:
    """What the engine of a VAE's part follows from, which is compared with torch.

    Attributes:
        engine: As of every engine.
        reference: What torch gave.
    """

    engine: BuildInputs
    reference: FileInput


def vae_encoder_build_stage(
    out: Path, recipe: Recipe, name: str
) -> Stage[ComparedBuildInputs, ComparedEngineOutcome] | None:
    """The stage that builds OUT/engines/TARGET/encoder, in fp32.

    None without OUT/onnx/encoder or a use for it.
    """
    return compared_build_stage(out, recipe, name, VAE_ENCODER, build_encoder)


def compared_build_stage(
    out: Path,
    recipe: Recipe,
    name: str,
    part: str,
    run: Callable[[ComparedBuildInputs, StageFolder], Work[ComparedEngineOutcome]],
) -> Stage[ComparedBuildInputs, ComparedEngineOutcome] | None:
    """The stage that builds OUT/engines/TARGET/PART of the VAE, in fp32.

    None without OUT/onnx/PART or a use for it.

    Args:
        out: The output folder.
        recipe: The target's recipe.
        name: The target.
        part: The folder's name.
        run: Builds the engine and compares it.
    """
    from diffc_export.targets import target

    folder = out / "onnx" / part
    if target(name).facts.loader is None or not (folder / DESCRIPTION).is_file():
        return None
    whole = recipe.build.model_copy(update={"precision": "fp32"})
    stage = build.build_stage(out, recipe.model_copy(update={"build": whole}), name, part)
    inputs = ComparedBuildInputs(stage.inputs, FileInput.of(folder / REFERENCE))
    return Stage(stage.name, 1, inputs, run, ComparedEngineOutcome, stage.places)


def build_encoder(inputs: ComparedBuildInputs, folder: StageFolder) -> Work[ComparedEngineOutcome]:
    """Build the engine, and compare it with torch where it runs here.

    Raises:
        CheckFailed: The engine does not compute what torch computes.
    """
    from diffc.measure.vae_parity import posterior_errors

    return (yield from build_compared(inputs, folder, "encoder", posterior_errors))


def build_compared(
    inputs: ComparedBuildInputs,
    folder: StageFolder,
    part: str,
    errors_of: Callable[[LoadedEngine, Path], dict[str, float]],
) -> Work[ComparedEngineOutcome]:
    """Build the engine of a part of the VAE, and compare it with torch where it runs here.

    Args:
        inputs: What the engine follows from.
        folder: The stage's.
        part: The part's name in an error.
        errors_of: The relative errors of an engine, from what torch gave.

    Raises:
        CheckFailed: The engine does not compute what torch computes.
    """
    from diffc.measure.parity import passes
    from diffc_export.targets import target

    built = yield from build.build(inputs.engine, folder)
    chosen = target(inputs.engine.target)
    if not chosen.status().runnable:
        notes = ["built for another machine: not compared with torch"]
        return ComparedEngineOutcome(**built.to_json(), notes=notes)
    runner = chosen.load(folder.out / ENGINE)
    try:
        errors = errors_of(runner, inputs.reference.path)
    finally:
        runner.close()
    if not passes(errors, "fp32"):
        raise CheckFailed(
            f"the VAE's {part} for {inputs.engine.target} does not compute what torch computes: "
            f"relative error {max(errors.values()):.2g}",
            hint="another --target",
        )
    return ComparedEngineOutcome(**built.to_json(), errors=errors)
