"""The plan stage: which channels stay. OUT/plan.json."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from diffc.data.inputs import data_text_tokens
from diffc.models.source import Source
from diffc.recipe import DataSection, ExportSection, PruneSection, Recipe
from diffc.runner import Stage, StageFolder, StageResult
from diffc.stage_inputs import FileInput, ModelInput
from diffc.stage_outcomes import CostFigures, ImportanceOutcome, PlanOutcome
from diffc.stages.importance import SCORES
from diffc_export.cache import cache_folder
from diffc_export.events import Progress, Work

if TYPE_CHECKING:
    from diffc.prune.by_latency.device import LatencyDevice
    from diffc.prune.plan import Cost, Plan

PLAN = "plan.json"
_USES = ("torch-pruning", "diffusers")


@dataclass(frozen=True)
class LatencyInput:
    """Where latencies are measured for a plan. The key holds what a latency depends on."""

    bench: LatencyDevice

    def keyed(self) -> object:
        """Target, precision, batch, threads, versions and device."""
        return dict(self.bench.facts())


@dataclass(frozen=True)
class PlanInputs:
    """What a plan follows from.

    Attributes:
        model: The dense model.
        importance: The scores.
        options: What to remove.
        export: How models are exported where latencies are measured, else the resolution alone.
        texts: The data, keyed by the length of the texts in it.
        align: What widths are a multiple of.
        bench: Where latencies are measured; None where none are.
    """

    model: ModelInput
    importance: StageResult[ImportanceOutcome]
    options: PruneSection
    export: ExportSection
    texts: FileInput
    align: int
    bench: LatencyInput | None

    @property
    def recipe(self) -> Recipe:
        """The parts of a recipe that planning reads."""
        data = DataSection(source=str(self.texts.path))
        return Recipe(prune=self.options, export=self.export, data=data)


def plan_stage(
    source: Source, recipe: Recipe, importance: StageResult[ImportanceOutcome]
) -> Stage[PlanInputs, PlanOutcome]:
    """The channels that stay."""
    bench = latency_device(recipe)
    resolution = recipe.export.resolution
    inputs = PlanInputs(
        model=ModelInput.denoiser(source),
        importance=importance,
        options=recipe.prune,
        export=ExportSection(resolution=resolution) if bench is None else recipe.export,
        texts=FileInput(Path(recipe.data.source), data_text_tokens(recipe)),
        align=alignment(recipe),
        bench=None if bench is None else LatencyInput(bench),
    )
    return Stage("plan", 2, inputs, plan, PlanOutcome, {PLAN: PLAN}, _USES)


def plan(inputs: PlanInputs, folder: StageFolder) -> Work[PlanOutcome]:
    """Write plan.json."""
    from safetensors.numpy import load_file

    from diffc.prune.planning import make_plan

    source, align = inputs.model.source, inputs.align
    scores = load_file(inputs.importance.folder / SCORES)
    why = dict(inputs.importance.result.why)
    yield Progress(0, 1, "planning widths")
    if inputs.bench is None:
        chosen = make_plan(source, inputs.recipe, scores, why, align)
    else:
        from diffc.prune.by_latency.search import plan_by_latency

        chosen = yield from plan_by_latency(
            source, inputs.recipe, scores, why, align, inputs.bench.bench, folder.scratch
        )
    chosen.save(folder.out / PLAN)
    outcome = plan_outcome(chosen)
    if inputs.bench is None:
        return outcome
    return outcome.model_copy(update={"latency": chosen.why["latency"]["measured"]})


def plan_outcome(plan: Plan) -> PlanOutcome:
    """The plan in figures: costs before and after."""
    return PlanOutcome(
        dense=_figures(plan.dense),
        compressed=_figures(plan.compressed),
        groups=len(plan.groups),
        groups_cut=sum(group.kept < group.size for group in plan.groups),
    )


def _figures(cost: Cost) -> CostFigures:
    return CostFigures(params=cost.params, macs=cost.macs, macs_paper=cost.macs_paper)


def cuts_nothing(plan_file: Path) -> bool:
    """Whether a plan keeps every channel and every branch, as one of ratio 0 does."""
    from diffc.prune.plan import Plan

    return not Plan.read(plan_file).keep()


def latency_device(recipe: Recipe) -> LatencyDevice | None:
    """Where a plan by latency takes it: the first target, at the first batch size.

    None where no latency is asked for. In fp32 while the precision is still to be chosen.
    """
    options, build = recipe.prune, recipe.build.of(recipe.build.target[0])
    if options.rounding == "paper" or "latency" not in (options.allocate, options.ratio_of):
        return None
    from diffc.prune.by_latency.device import LatencyDevice

    precision = "fp32" if build.precision == "auto" else build.precision
    return LatencyDevice(build.target[0], precision, build.batch[0], build.threads, cache_folder())


def alignment(recipe: Recipe) -> int:
    """What widths are a multiple of, when the recipe does not say.

    What each target says for its precision; their least common multiple where there are several.
    """
    from diffc_export.targets import target

    if recipe.prune.align is not None:
        return recipe.prune.align
    build = recipe.build
    facts = {name: target(name).facts for name in build.target}
    return math.lcm(*(one.width_multiple(build.of(n).precision) for n, one in facts.items()))
