"""The stage that samples the dense model with fewer steps: see diffc.measure.anchors.

It comes after the times, since they say how many steps fit, and needs the dense model in torch.
Where that is missing, as on a target machine that OUT was copied to, the reason is the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from diffc.errors import InputError
from diffc.follows import still_follows
from diffc.measure.anchors import Anchors, Wanted, steps_in_time
from diffc.measure.results import TargetResult
from diffc.models.source import Source, find_source, read_json
from diffc.output import read_lock
from diffc.recipe import Recipe
from diffc.runner import Stage, StageFolder
from diffc.stage_inputs import FileInput, ModelInput, RunShape
from diffc.stage_outcomes import AnchorsOutcome
from diffc.stage_records import STATE
from diffc.stages.build import torch_model
from diffc.stages.data import CLEAN, model_packages, pipeline_facts
from diffc.stages.explain import why_no_torch
from diffc.stages.samples import DENSE_SAMPLES
from diffc_export.events import Work
from diffc_runtime.json_types import JsonObject
from diffc_runtime.loop import Loop

if TYPE_CHECKING:
    from diffc.data.synthetic import Conditioning


@dataclass(frozen=True)
class JudgedLoop:
    """How the dense model's judged samples were made: the loop, and the noise's seed."""

    loop: Loop
    seed: int

    @property
    def steps(self) -> int:
        """Of the loop."""
        return self.loop.steps or 0


@dataclass(frozen=True)
class AnchorsInputs:
    """What the anchors of one target follow from.

    Attributes:
        wanted: Which anchors.
        model: The dense model; None where it cannot be sampled.
        vae: The VAE that decodes its samples; None with ``model``.
        pipeline: What decides the denoiser's inputs beside it; None with ``model``.
        absent: Why the dense model cannot be sampled here; None where it can.
        images: The dense model's images with all steps.
        each: The SSIM of the compressed model's images to them.
        loop: How both were made.
        conditions: The names of the conditions that they were made under.
        clean: The file of these conditions; None where the model is sampled without.
        shape: What the denoiser's inputs are like.
    """

    wanted: Wanted
    model: ModelInput | None
    vae: ModelInput | None
    pipeline: ModelInput | None
    absent: str | None
    images: FileInput
    each: tuple[float, ...]
    loop: JudgedLoop
    conditions: tuple[str, ...]
    clean: FileInput | None
    shape: RunShape


def anchors_stage(
    out: Path, recipe: Recipe, image: TargetResult, *, scale: bool
) -> Stage[AnchorsInputs, AnchorsOutcome] | None:
    """The anchors of one target; None where no image was timed, or no SSIM was measured.

    Args:
        out: The output folder.
        recipe: The options of the run.
        image: The times of whole images on the target.
        scale: Measure the anchors that no target's time decides, too.
    """
    samples, images = out / STATE / "samples.json", out / DENSE_SAMPLES
    if image.speedup is None or not images.is_file() or not still_follows(out, ["samples"]):
        return None
    figure = read_json(samples)["result"].get("ssim")
    if not figure or "reference_loop" not in figure or None in figure.get("each", [None]):
        return None
    data = read_json(out / STATE / "data.json")["result"]
    source, absent = _dense_model(out)
    conditions = tuple(data.get("conditions", ()))
    has_conditions = bool(conditions or data.get("null"))
    inputs = AnchorsInputs(
        wanted=Wanted(image.target, steps_in_time(image, figure["steps"]) or None, scale),
        model=None if source is None else ModelInput.denoiser(source),
        vae=None if source is None else ModelInput.vae(source),
        pipeline=None if source is None else ModelInput(source, pipeline_facts(source)),
        absent=absent,
        images=FileInput.of(images),
        each=tuple(figure["each"]),
        loop=_loop(figure),
        conditions=conditions,
        clean=FileInput.of(out / STATE / CLEAN) if has_conditions else None,
        shape=RunShape.of(recipe),
    )
    packages = () if source is None else (*model_packages(source), "torchmetrics")
    return Stage(
        f"anchors-{image.target}",
        1,
        inputs,
        anchors,
        AnchorsOutcome,
        packages=packages,
    )


def _dense_model(out: Path) -> tuple[Source | None, str | None]:
    """The model that OUT was compressed from, or why it cannot be sampled here."""
    locked = read_lock(out)["model"]
    absent = why_no_torch(locked)
    if absent is not None:
        return None, absent
    name = torch_model(out, "dense")
    try:
        source = find_source(name)
    except InputError as error:
        return None, str(error)
    if source.digest != locked["digest"]:
        return None, f"the model at {name} is not the one that was compressed any more"
    return source, None


def _loop(figure: JsonObject) -> JudgedLoop:
    return JudgedLoop(Loop.parse(figure["reference_loop"]), int(figure["seeds"][0]))


def anchors(inputs: AnchorsInputs, folder: StageFolder) -> Work[AnchorsOutcome]:
    """Sample the dense model, and compare it with itself."""
    wanted = inputs.wanted
    if inputs.model is None:
        missing = f"the dense model with fewer steps is not shown: {inputs.absent}"
        return AnchorsOutcome(
            anchors=Anchors(target=wanted.target, steps=inputs.loop.steps, absent=missing)
        )
    from safetensors.torch import load_file

    from diffc.data.latents import decode_latents
    from diffc.data.precision import best_device
    from diffc.measure.anchors import JudgedSamples, measure_anchors

    source = inputs.model.source
    dense = inputs.shape.open(source)
    dense.model.to(best_device())
    images = load_file(inputs.images.path)["dense"].float()
    judged = JudgedSamples(
        images, inputs.each, inputs.loop.loop, inputs.loop.seed, _conditioning(inputs)
    )
    measured = yield from measure_anchors(
        dense, judged, wanted, lambda latents: decode_latents(source, latents)
    )
    return AnchorsOutcome(anchors=measured)


def _conditioning(inputs: AnchorsInputs) -> Conditioning:
    from diffc.data.clean import CleanSet
    from diffc.data.synthetic import Conditioning

    if inputs.clean is None:
        return Conditioning()
    clean = CleanSet.load(inputs.clean.path)
    rows = {name: clean.conditions[name] for name in inputs.conditions}
    return Conditioning(rows, clean.null)
