"""The VAE decoder of a latent pipeline: exported and built once, beside the two denoisers.

A server that makes images needs it; it is neither cut nor lowered, since a decoder in half
precision overflows in some published VAEs, and takes one call where the denoiser takes fifty.

    OUT/onnx/decoder    OUT/engines/TARGET/decoder
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffc.chain import back
from diffc.chain.data import model_packages, pipeline_facts
from diffc.models.components import Component
from diffc.models.families import family, family_names
from diffc.models.source import Source
from diffc.recipe import Recipe
from diffc.stages import Room, Stage
from diffc_export.events import Progress, Work

DECODER = "decoder"


def export_stage(source: Source, recipe: Recipe) -> Stage | None:
    """OUT/onnx/decoder, or None where the pipeline has no VAE of a family to export."""
    vae = source.vae
    if vae is None or _vae_class(vae) not in family_names():
        return None
    inputs = {
        **pipeline_facts(source),
        "vae": vae.digest,
        "denoiser": source.digest,
        "options": recipe.export.model_dump(mode="json"),
    }

    def run(room: Room) -> Work[dict[str, Any]]:
        yield Progress(0, 1, "exporting the VAE's decoder")
        described = _export(source, recipe, room.out / DECODER)
        return {"sha256": described["sha256"], "parameters": described["parameters"]}

    packages = (*model_packages(source), "onnx", "onnxscript", "onnxslim")
    return Stage(f"export-{DECODER}", 3, inputs, run, {DECODER: f"onnx/{DECODER}"}, packages)


def _export(source: Source, recipe: Recipe, folder: Path) -> dict[str, Any]:
    from dataclasses import replace

    from diffc.data.inputs import denoiser_specs
    from diffc.data.latents import latent_factors, load_vae
    from diffc.models.onnx_export import export_denoiser

    denoiser = denoiser_specs(source, recipe)
    latent = next(spec for spec in denoiser if spec.kind == "sample").shape
    latent = family(source.class_name).latent_shape(latent)
    assert source.vae is not None
    vae, known = load_vae(source).cpu(), family(_vae_class(source.vae))
    specs = known.specs(dict(vae.config), (latent[-2], latent[-1]))
    if len(latent) == 3 and latent[0] == specs[0].shape[0]:
        specs = [replace(specs[0], shape=latent)]
    scale, shift = latent_factors(dict(vae.config))
    facts = {
        "scaling_factor": scale,
        "shift_factor": shift,
        "parameters": sum(p.numel() for p in vae.decoder.parameters()),
    }
    options = recipe.export
    return export_denoiser(
        vae, known, specs, folder, opset=options.opset, simplify=options.simplify, facts=facts,
        sizes=options.sizes,
    )  # fmt: skip


def _vae_class(vae: Component) -> str:
    return str(vae.config.get("_class_name", ""))


def build_stage(out: Path, recipe: Recipe, name: str) -> Stage | None:
    """OUT/engines/TARGET/decoder in fp32; None without OUT/onnx/decoder or a use for it."""
    from diffc_export.targets import target

    served = target(name).facts.loader is not None
    if not served or not (out / "onnx" / DECODER / "model.json").is_file():
        return None
    whole = recipe.build.model_copy(update={"precision": "fp32"})
    return back.build_stage(out, recipe.model_copy(update={"build": whole}), name, DECODER)
