"""The prune stage: surgery by the plan. OUT/pruned."""

from __future__ import annotations

from dataclasses import dataclass

from diffc.models.source import Source
from diffc.recipe import Recipe
from diffc.runner import Stage, StageFolder, StageResult
from diffc.stage_inputs import FileInput, ModelInput, RunShape
from diffc.stage_outcomes import DataOutcome, PlanOutcome, PruneOutcome
from diffc.stages.data import model_packages
from diffc.stages.plan import PLAN, plan_outcome
from diffc_export.events import Progress, Work

PRUNED = "pruned"


@dataclass(frozen=True)
class PruneInputs:
    """What the cut model follows from.

    Attributes:
        model: The dense model.
        parts: What is saved beside the denoiser.
        plan: The plan stage.
        plan_file: The plan, by its content: latencies differ from one time to the next.
        shape: What the denoiser's inputs are like.
    """

    model: ModelInput
    parts: ModelInput
    plan: StageResult[PlanOutcome]
    plan_file: FileInput
    shape: RunShape


@dataclass(frozen=True)
class CutModel:
    """What the stages after the cut work on.

    Attributes:
        clean: The clean samples.
        plan_file: OUT/plan.json, which says what was cut.
        pruned: The cut model.
    """

    clean: StageResult[DataOutcome]
    plan_file: FileInput
    pruned: StageResult[PruneOutcome]


def prune_stage(
    source: Source, recipe: Recipe, plan: StageResult[PlanOutcome]
) -> Stage[PruneInputs, PruneOutcome]:
    """The cut model."""
    inputs = PruneInputs(
        model=ModelInput.denoiser(source),
        parts=ModelInput.parts(source),
        plan=plan,
        plan_file=FileInput.of(plan.folder / PLAN),
        shape=RunShape.of(recipe),
    )
    packages = model_packages(source)
    return Stage("prune", 4, inputs, prune, PruneOutcome, {PRUNED: PRUNED}, packages)


def prune(inputs: PruneInputs, folder: StageFolder) -> Work[PruneOutcome]:
    """Cut the channels that the plan does not keep, and save what is left."""
    from diffc.models.save import save_compressed
    from diffc.prune.plan import Plan
    from diffc.prune.surgery import cut

    yield Progress(0, 1, "cutting channels")
    plan = Plan.read(inputs.plan_file.path)
    units = inputs.shape.open_on_meta(inputs.model.source).units()
    with inputs.shape.mapped(inputs.model.source) as denoiser:
        cut(denoiser.model, units, plan.keep())
        summary = plan_outcome(plan).to_json()
        save_compressed(denoiser.model, inputs.parts.source, folder.out / PRUNED, summary)
    return PruneOutcome(params=plan.compressed.params)
