"""The repair stage: least-squares weights for the layers that read cut channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffc.models.source import Source, find_source
from diffc.recipe import Recipe, RepairSection
from diffc.runner import Stage, StageFolder, StageResult
from diffc.stage_inputs import FileInput, ModelInput, RunShape
from diffc.stage_outcomes import (
    DataOutcome,
    PruneOutcome,
    RepairOutcome,
)
from diffc.stage_records import STATE
from diffc.stages.data import CLEAN, model_packages
from diffc.stages.plan import cuts_nothing
from diffc.stages.prune import PRUNED, CutModel
from diffc_export.events import Progress, Work

if TYPE_CHECKING:
    from torch import nn

    from diffc.prune.repair.run import Repair

REPAIRED = "repaired.safetensors"


@dataclass(frozen=True)
class RepairInputs:
    """What the repaired weights follow from.

    Attributes:
        model: The dense model.
        data: The clean samples.
        plan_file: The plan, which says what was cut.
        pruned: The cut model.
        options: Whether and on how many rows.
        shape: What the denoiser's inputs are like.
        seed: Of everything random.
    """

    model: ModelInput
    data: StageResult[DataOutcome]
    plan_file: FileInput
    pruned: StageResult[PruneOutcome]
    options: RepairSection
    shape: RunShape
    seed: int


def repair_stage(
    source: Source,
    recipe: Recipe,
    cut: CutModel,
) -> Stage[RepairInputs, RepairOutcome]:
    """Return the stage that repairs the cut model.

    Args:
        source: The dense model.
        recipe: Every option.
        cut: The cut model.
    """
    inputs = RepairInputs(
        model=ModelInput.denoiser(source),
        data=cut.clean,
        plan_file=cut.plan_file,
        pruned=cut.pruned,
        options=recipe.repair,
        shape=RunShape.of(recipe),
        seed=recipe.seed,
    )
    places = {REPAIRED: f"{STATE}/{REPAIRED}"}
    return Stage("repair", 3, inputs, mend, RepairOutcome, places, model_packages(source))


def mend(inputs: RepairInputs, folder: StageFolder) -> Work[RepairOutcome]:
    """Write the new weights; none where the repair is off, or has nothing to make better."""
    from safetensors.torch import save_file

    if inputs.options.mode == "off":
        save_file({}, folder.out / REPAIRED)
        yield Progress(1, 1, "no repair asked for")
        return RepairOutcome(is_used=False)
    if cuts_nothing(inputs.plan_file.path):
        save_file({}, folder.out / REPAIRED)
        yield Progress(1, 1, "nothing was cut")
        return RepairOutcome(is_used=False)
    from diffc.data.clean import CleanSet
    from diffc.data.precision import best_device
    from diffc.models.mapped import mapped_denoiser
    from diffc.prune.plan import Plan
    from diffc.prune.repair.layers import readers
    from diffc.prune.repair.run import repair

    pruned = find_source(inputs.pruned.folder / PRUNED)
    with inputs.shape.mapped(inputs.model.source) as dense, mapped_denoiser(pruned) as cut:
        keep = Plan.read(inputs.plan_file.path).keep()
        groups = inputs.shape.open_on_meta(inputs.model.source).groups()
        readers_of_cut = readers(dense.model, cut, groups, keep)
        for model in (dense.model, cut):
            model.to(best_device())
        clean = CleanSet.load(inputs.data.folder / CLEAN)
        rows = inputs.options.rows
        done = yield from repair(dense, cut, readers_of_cut, clean, rows=rows, seed=inputs.seed)
        save_file(dict(done.changed), folder.out / REPAIRED)
    return _outcome(done)


def apply_repair(model: nn.Module, repaired: StageResult[RepairOutcome]) -> None:
    """Give the cut ``model`` the weights of a repair, in place."""
    import torch
    from safetensors.torch import load_file

    with torch.no_grad():
        for name, value in load_file(repaired.folder / REPAIRED).items():
            model.get_parameter(name).copy_(value)


def map_repair(model: nn.Module, repaired: StageResult[RepairOutcome]) -> None:
    """The same for a model on the CPU; the weights stay in their file until they are used."""
    from diffc.models.mapped import map_weights

    map_weights(model, repaired.folder / REPAIRED)


def _outcome(done: Repair) -> RepairOutcome:
    fewer = sum(layer.rows < layer.columns for layer in done.layers)
    notes = [f"{fewer} layers had fewer rows than inputs: the ridge decides them"] if fewer else []
    if done.repaired is not None and not done.is_used:
        notes.append("the repaired network was no nearer to the dense one: it was not taken")
    return RepairOutcome(
        is_used=done.is_used,
        layers=list(done.layers),
        left_alone=dict(done.left_alone),
        dense=done.dense,
        cut=done.cut,
        repaired=done.repaired,
        samples=done.samples,
        notes=notes,
    )
