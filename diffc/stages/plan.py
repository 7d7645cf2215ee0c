"""The plan stage: which channels stay. OUT/plan.json."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from diffc.data.inputs import data_text_tokens
from diffc.errors import RequestError, UnavailableError
from diffc.models.source import Source
from diffc.recipe import BuildSection, DataSection, ExportSection, PruneSection, Recipe
from diffc.recipe.sections.prune import by_latency
from diffc.runner import Stage, StageFolder, StageResult
from diffc.stage_inputs import FileInput, ModelInput, Unkeyed
from diffc.stage_outcomes import CostFigures, ImportanceOutcome, PlanOutcome
from diffc.stages.importance import SCORES
from diffc_export.cache import cache_folder
from diffc_export.events import Progress, Work

if TYPE_CHECKING:
    from diffc.prune.allocate import Scores
    from diffc.prune.by_latency.device import LatencyDevice
    from diffc.prune.plan import Cost, Plan
    from diffc_runtime.json_types import JsonDict

PLAN = "plan.json"
SHARE = 0.25
"""Of what a run took for its data and its importance: what tables of latencies may take, where
nobody asked for a plan by latency."""
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
        build: Whose precisions say what has to fit into memory; the default where nothing has to.
        no_latency: Why an allocation that chooses itself is not by latency; empty where it may be.
        spent: Seconds that the run took until now, for the data and the importance.
    """

    model: ModelInput
    importance: StageResult[ImportanceOutcome]
    options: PruneSection
    export: ExportSection
    texts: FileInput
    align: int
    bench: LatencyInput | None
    build: BuildSection
    no_latency: str
    spent: Unkeyed[float]

    @property
    def recipe(self) -> Recipe:
        """The parts of a recipe that planning reads."""
        data = DataSection(source=str(self.texts.path))
        return Recipe(prune=self.options, export=self.export, data=data, build=self.build)


def plan_stage(
    source: Source, recipe: Recipe, importance: StageResult[ImportanceOutcome], spent: float
) -> Stage[PlanInputs, PlanOutcome]:
    """The channels that stay. spent: seconds that the run took until now."""
    bench, no_latency = latency_device(recipe), ""
    if bench is None and recipe.prune.allocate == "auto":
        bench, no_latency = _device_if_any(recipe)
    resolution = recipe.export.resolution
    as_one = {"gradient_accumulation": 1, "by_block": "auto"}  # memory decides no plan
    whole = recipe.prune.importance.model_copy(update=as_one)
    inputs = PlanInputs(
        model=ModelInput.denoiser(source),
        importance=importance,
        options=recipe.prune.model_copy(update={"importance": whole}),
        export=ExportSection(resolution=resolution) if bench is None else recipe.export,
        texts=FileInput(Path(recipe.data.source), data_text_tokens(recipe)),
        align=alignment(recipe),
        bench=None if bench is None else LatencyInput(bench),
        build=BuildSection() if recipe.prune.fit is None else recipe.build,
        no_latency=no_latency,
        spent=Unkeyed(spent),
    )
    return Stage("plan", 4, inputs, plan, PlanOutcome, {PLAN: PLAN}, _USES)


def plan(inputs: PlanInputs, folder: StageFolder) -> Work[PlanOutcome]:
    """Write plan.json."""
    from safetensors.numpy import load_file

    from diffc.prune.planning import make_plan

    source, align = inputs.model.source, inputs.align
    scores = load_file(inputs.importance.folder / SCORES)
    why = dict(inputs.importance.result.why)
    yield Progress(0, 1, "planning widths")
    if inputs.options.allocate == "auto" and not by_latency(inputs.options):
        chosen = yield from _allocated(inputs, scores, why)
    elif inputs.bench is None:
        chosen = make_plan(source, inputs.recipe, scores, why, align)
    else:
        from diffc.prune.by_latency.search import plan_by_latency

        chosen = yield from plan_by_latency(
            source, inputs.recipe, scores, why, align, inputs.bench.bench, folder.scratch
        )
    chosen.save(folder.out / PLAN)
    measured = chosen.why.get("latency", {}).get("measured")
    return plan_outcome(chosen).model_copy(update={"latency": measured})


def _allocated(inputs: PlanInputs, scores: Scores, why: JsonDict) -> Work[Plan]:
    """By latency where its tables can be had in a small share of the run, else ``global``."""
    from diffc.prune.by_latency.search import plan_by_tables
    from diffc.prune.by_latency.table import TablesTooDear
    from diffc.prune.planning import make_plan

    source, recipe, align = inputs.model.source, inputs.recipe, inputs.align
    because = inputs.no_latency
    if inputs.bench is not None:
        bench, spent = inputs.bench.bench, inputs.spent.value
        try:
            plan = yield from plan_by_tables(
                source, _allocate(recipe, "latency"), scores, why, align, bench, SHARE * spent
            )
        except TablesTooDear as error:
            because = (
                f"{error} on {bench.target}, more than {SHARE:.0%} of the {spent:.0f} s that the "
                "run took until then (--allocate latency measures them nevertheless)"
            )
        else:
            seconds = plan.why["latency"]["seconds"]
            words = f"{bench.target} runs here, and its tables took {seconds:.1f} s"
            return replace(plan, why={**plan.why, "allocated_since": words})
    plan = make_plan(source, _allocate(recipe, "global"), scores, why, align)
    return replace(plan, why={**plan.why, "allocated_since": because})


def _allocate(recipe: Recipe, allocation: str) -> Recipe:
    options = recipe.prune.model_copy(update={"allocate": allocation})
    return recipe.model_copy(update={"prune": options})


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

    None where no latency is asked for.
    """
    return _device(recipe, recipe.build.target[0]) if by_latency(recipe.prune) else None


def _device_if_any(recipe: Recipe) -> tuple[LatencyDevice | None, str]:
    """The first target on which latencies can be measured here; None, and why there is none."""
    options = recipe.prune
    if options.rounding == "paper" or options.ratio_of == "channels":
        return None, "the publication's widths know no latency"
    if not options.ratio:
        return None, "nothing is cut"
    reasons = []
    for name in recipe.build.target:
        device = _device(recipe, name)
        try:
            device.check()
        except (RequestError, UnavailableError) as error:
            reasons.append(str(error))
        else:
            return device, ""
    return None, "; ".join(reasons)


def _device(recipe: Recipe, name: str) -> LatencyDevice:
    """One target at its first batch size; in fp32 while the precision is still to be chosen."""
    from diffc.prune.by_latency.device import LatencyDevice

    build = recipe.build.of(name)
    precision = "fp32" if build.precision == "auto" else build.precision
    return LatencyDevice(name, precision, build.batch[0], build.threads, cache_folder())


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
