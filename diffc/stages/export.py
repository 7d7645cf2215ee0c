"""The export stages: ONNX of each side, with model.json and what torch gave. OUT/onnx/SIDE."""

from __future__ import annotations

from dataclasses import dataclass

from diffc.models.resolutions import multiple_of
from diffc.models.source import Source, find_source
from diffc.output import SIDES
from diffc.recipe import ExportSection, Recipe
from diffc.runner import Stage, StageFolder, StageResult
from diffc.stage_inputs import ModelInput, RunShape
from diffc.stage_outcomes import (
    DataOutcome,
    DistillOutcome,
    ExportOutcome,
    FuseOutcome,
    PlanOutcome,
)
from diffc.stages.data import CLEAN, model_packages
from diffc.stages.distill import MODEL
from diffc_export.events import Progress, Work
from diffc_export.targets.onnx_file import REFERENCE

EXPORT_PACKAGES = ("onnx", "onnxscript", "onnxslim")


@dataclass(frozen=True)
class ExportInputs:
    """What an ONNX folder follows from.

    Attributes:
        side: ``dense`` or ``compressed``.
        model: The model of that side.
        scheduler: The model's own scheduler_config.json: a compressed model may predict something
            else than the dense one.
        data: The clean samples, for the reference inputs.
        options: How to export.
        macs: Of the model, by the plan.
        shape: What the denoiser's inputs are like.
        seed: Of the reference's noise.
    """

    side: str
    model: ModelInput
    scheduler: dict[str, object]
    data: StageResult[DataOutcome]
    options: ExportSection
    macs: float
    shape: RunShape
    seed: int


def export_stages(
    source: Source,
    recipe: Recipe,
    data: StageResult[DataOutcome],
    plan: StageResult[PlanOutcome],
    distilled: StageResult[DistillOutcome | FuseOutcome],
) -> list[Stage[ExportInputs, ExportOutcome]]:
    """Return the stages that write the ONNX folders of both sides, ``dense`` first.

    Args:
        source: The dense model.
        recipe: Every option.
        data: The clean samples, for the reference.
        plan: The plan's figures.
        distilled: The compressed model.
    """
    models = {
        SIDES[0]: ModelInput.denoiser(source),
        SIDES[1]: ModelInput(find_source(distilled.folder / MODEL), distilled.key),
    }
    packages = (*model_packages(source), *EXPORT_PACKAGES)
    stages = []
    for side, model in models.items():
        inputs = ExportInputs(
            side=side,
            model=model,
            scheduler=dict(model.source.scheduler),
            data=data,
            options=recipe.export,
            macs=plan.result.cost(side).macs,
            shape=RunShape.of(recipe),
            seed=recipe.seed,
        )
        places = {side: f"onnx/{side}"}
        stages.append(Stage(f"export-{side}", 5, inputs, export, ExportOutcome, places, packages))
    return stages


def export(inputs: ExportInputs, folder: StageFolder) -> Work[ExportOutcome]:
    """Write the ONNX folder of one side; the network's weights stay in their files meanwhile."""
    from diffc.data.clean import CleanSet
    from diffc.measure.reference import write_reference
    from diffc.models.diffusion import served_settings
    from diffc.models.onnx_export import export_denoiser

    side, source, options = inputs.side, inputs.model.source, inputs.options
    with inputs.shape.mapped(source) as denoiser:
        yield Progress(0, 2, f"exporting the {side} model")
        parameters = sum(p.numel() for p in denoiser.model.parameters())
        facts = {
            "prediction": denoiser.process.prediction,
            "scheduler": served_settings(inputs.scheduler),
            "parameters": parameters,
            "macs": inputs.macs,
        }
        described = export_denoiser(
            denoiser.model,
            denoiser.family,
            denoiser.specs,
            folder.out / side,
            opset=options.opset,
            simplify=options.simplify,
            facts=facts,
            sizes=options.sizes,
            multiple=multiple_of(source.class_name, source.config) or 1,
        )
        yield Progress(1, 2, f"running the {side} model at reference inputs")
        clean = CleanSet.load(inputs.data.folder / CLEAN)
        reference = folder.out / side / REFERENCE
        write_reference(reference, denoiser, clean, inputs.seed, options.sizes[1:])
    return ExportOutcome(sha256=described["sha256"], parameters=parameters)
