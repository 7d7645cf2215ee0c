"""Recipe + scores -> Plan: the budget, the walk, and the figures before and after.

Works from configs alone on the meta device.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from diffc.data.inputs import data_text_tokens
from diffc.errors import InputError, RequestError
from diffc.input_size import Size
from diffc.models.branches import Branch, Stretch, Unit, covering, stretches
from diffc.models.dry_run import dry_call
from diffc.models.families import family
from diffc.models.families.base import Family
from diffc.models.families.examples import meta_inputs
from diffc.models.inputs import input_specs
from diffc.models.load import meta_denoiser
from diffc.models.resolutions import check_resolution
from diffc.models.source import Source
from diffc.prune.allocate import (
    CLOSE_ENOUGH,
    Limits,
    Measure,
    check_reachable,
    limits,
    lowest,
    of_groups,
    paper_widths,
    reach_of,
    settled,
    total_loss,
    walk,
)
from diffc.prune.cost import CostModel, Widths, cost_model
from diffc.prune.depth.staying import held_branches
from diffc.prune.knapsack import Budget, minimise
from diffc.prune.plan import Plan, unit_plans
from diffc.prune.reach import widest_value
from diffc.recipe import BuildSection, ExportSection, PruneSection, Recipe
from diffc.recipe.sections.prune import by_latency
from diffc.recipe.words import byte_count
from diffc_export.specs import TensorSpec

Scores = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Problem:
    """What widths are to be found for.

    ranked: the channels' importance; None where only configs are there. start: the dense widths
    with the recipe's own put in; bounds then hold those. tokens: the length of the data's texts;
    None: the pipeline's own.
    notes: what the dry call says of the model.
    """

    source: Source
    options: PruneSection
    export: ExportSection
    align: int
    costs: CostModel
    bounds: Limits
    start: Widths
    ranked: Scores | None
    tokens: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def specs(self) -> list[TensorSpec]:
        """The denoiser's inputs."""
        return input_specs(self.source, self.export.size, self.tokens)

    @property
    def least(self) -> Widths:
        """The smallest width of each unit, where the recipe's own widths are in place too."""
        least: Widths = np.minimum(self.bounds.least, self.start)
        return least

    @property
    def walked(self) -> Scores | None:
        """The importance that decides on widths; None for uniform ones."""
        return None if self.options.allocate == "uniform" else self.ranked


def problem_of(
    source: Source, recipe: Recipe, scores: Scores | None, align: int, *, will_rank: bool = False
) -> Problem:
    """Return what a plan has to decide: the model's units with their costs, and the limits.

    Args:
        source: The model; its weights are not read.
        recipe: The budget and the limits.
        scores: Unit -> importance of its channels; None: there are none.
        align: What widths are a multiple of.
        will_rank: True where scores are still to be measured, so that every branch may go.

    Raises:
        RequestError: A layer's name matches nothing, or depth is to be cut without scores.
        InputError: A score is not finite.
    """
    tokens, options = data_text_tokens(recipe), recipe.prune
    _check_finite(scores or {})

    def is_candidate(branch: Branch) -> bool:
        if isinstance(branch, Stretch):
            return options.cuts_depth and branch.name in (scores or {})
        ranked = options.cuts_depth or branch.name in (scores or {})
        return ranked or _left_out(branch, options.widths)

    costs, notes = _traced(source, recipe.export.size, tokens, is_candidate)
    _check_branches(source, options, costs)
    if options.cut == "depth" and scores is None and not will_rank:
        raise RequestError(
            "--cut depth: nothing has scored the branches, so none can be chosen",
            hint="diffc plan with --out OUT scores them first, and so does diffc compile",
        )
    options = _fitted(options, recipe.build, costs)
    bounds = limits(costs.units, align=align, fixed=options.fixed, floors=options.floors)
    if not will_rank:
        _keep_unranked(bounds, costs, {} if options.allocate == "uniform" else scores or {})
    if options.cut == "depth":
        groups = len(costs.groups)
        bounds.least[:groups] = costs.dense[:groups]
    if scores and options.cuts_depth:
        known = family(source.class_name)
        inputs = meta_inputs(input_specs(source, recipe.export.size, tokens))
        staying = held_branches(meta_denoiser(source), known, inputs, costs.units, bounds, scores)
        bounds.least[staying] = 1
    start = _start_widths(costs, bounds, options.widths)
    problem = Problem(
        source=source,
        options=options,
        export=recipe.export,
        align=align,
        costs=costs,
        bounds=bounds,
        start=start,
        ranked=None if scores is None else _no_scores(costs.branches) | dict(scores),
        tokens=tokens,
        notes=tuple(notes),
    )
    _check_fit(problem, recipe.build)
    return problem


def _check_fit(problem: Problem, build: BuildSection) -> None:
    """Refuse memory in which not even the least widths have room."""
    fit, costs = problem.options.fit, problem.costs
    most = byte_count(fit or "")
    if fit is None or most is None:
        return
    bounds = Limits(problem.bounds.step, problem.least)
    dense = costs.memory(costs.dense) * widest_value(build)
    reach_of(costs, bounds, costs.memory).check_fit(fit, most, dense)


def _fitted(options: PruneSection, build: BuildSection, costs: CostModel) -> PruneSection:
    """The options with the ratio of memory at which the network takes no more than ``fit``."""
    most = byte_count(options.fit or "")
    if most is None:
        return options
    wide = widest_value(build)
    ratio = max(1.0 - most / wide / costs.memory(costs.dense), 0.0)
    return options.model_copy(update={"ratio": ratio, "ratio_of": "memory"})


def _check_branches(source: Source, options: PruneSection, costs: CostModel) -> None:
    if options.cuts_depth and not costs.branches:
        raise RequestError(
            f"--cut {options.cut}: a {source.class_name} has no branch that can be left out",
            hint="use --cut width",
        )


def _keep_unranked(bounds: Limits, costs: CostModel, scores: Scores) -> None:
    """Have every branch stay that nothing ranks."""
    for place, branch in enumerate(costs.branches, start=len(costs.groups)):
        if branch.name not in scores:
            bounds.least[place] = 1


def plan_of(problem: Problem, widths: Widths, why: Mapping[str, Any]) -> Plan:
    """The plan at ``widths``. why: how the importance was found."""
    costs, bounds = problem.costs, problem.bounds
    widths = settled(costs.units, widths)
    ranked = problem.ranked if problem.ranked is not None else _no_scores(costs.units)
    plans = unit_plans(costs.units, ranked, widths, bounds.step.tolist())
    pairs = zip(costs.units, plans, strict=True)
    return Plan(
        units=tuple(plan for unit, plan in pairs if not isinstance(unit, Stretch)),
        dense=costs.cost(costs.dense),
        compressed=costs.cost(widths),
        why=_why(problem.options, problem.ranked, why, problem.align),
    )


def cost_of(source: Source, resolution: Size | None = None, tokens: int | None = None) -> CostModel:
    """The cost model of a model, traced on the meta device; its ``units`` are all that can shrink.

    Args:
        resolution, tokens: as in ``diffc.models.inputs.input_specs``.

    Raises:
        InputError: when the class cannot be made from its config, or cannot be called.
    """
    return _traced(source, resolution, tokens, lambda branch: True)[0]


def _traced(
    source: Source,
    resolution: Size | None,
    tokens: int | None,
    is_candidate: Callable[[Branch], bool],
) -> tuple[CostModel, list[str]]:
    """The cost model, and the notes of the dry call, of one model on the meta device.

    Its units are the groups of channels, then the branches that are candidates.
    """
    known = family(source.class_name)
    check_resolution(source.class_name, source.config, () if resolution is None else (resolution,))
    specs = input_specs(source, resolution, tokens)
    model = meta_denoiser(source)
    every = known.branches(model)
    branches = [branch for branch in [*every, *stretches(every)] if is_candidate(branch)]
    if source.is_cut:  # its widths are its own
        return _trace(model, known, specs, branches)
    key = known, json.dumps(source.config, sort_keys=True), repr((specs, branches))
    for traced, result in _TRACES:
        if traced == key:
            return result
    result = _trace(model, known, specs, branches)
    _TRACES.append((key, result))
    return result


def _trace(
    model: nn.Module, known: Family, specs: Sequence[TensorSpec], branches: Sequence[Branch]
) -> tuple[CostModel, list[str]]:
    notes = dry_call(model, known, specs)
    inputs = meta_inputs(specs)
    with torch.device("meta"):
        units: list[Unit] = [*known.groups(model, inputs), *branches]
        costs = cost_model(model, inputs, known.call, units)
    costs.dense.setflags(write=False)  # it may be another plan's too
    return costs, notes


_TRACES: deque[tuple[tuple[Family, str, str], tuple[CostModel, list[str]]]] = deque(maxlen=8)
"""The latest traces, with what each depends on: the checks before the first stage make the one that
the plan needs."""


def make_plan(
    source: Source, recipe: Recipe, scores: Scores | None, why: Mapping[str, Any], align: int
) -> Plan:
    """Return the plan for a model under a recipe.

    Args:
        source: The model.
        recipe: The budget and the limits.
        scores: Unit -> importance of its channels; None plans widths alone (the first channels of
            each block are named in its place).
        why: How the scores came about, for plan.json.
        align: What widths are a multiple of.

    Raises:
        RequestError: The budget cannot be met, or a layer's name matches nothing.
    """
    problem = problem_of(source, recipe, scores, align)
    return plan_of(problem, chosen_widths(problem), why)


def check_plan(source: Source, recipe: Recipe, align: int) -> list[str]:
    """Refuse a plan that cannot be, before anything is measured for it; no weights are read.

    Returns:
        The notes of the dry call that planning begins with.

    Raises:
        RequestError: when a layer's name matches nothing, a width does not fit its layer, or the
            ratio cannot be reached. What depends on latencies is not known yet.
    """
    problem = problem_of(source, recipe, None, align, will_rank=recipe.prune.cuts_depth)
    costs, options = problem.costs, problem.options
    if options.rounding == "paper":
        _paper(problem)
        return list(problem.notes)
    if options.ratio_of == "latency":
        return list(problem.notes)
    measure = measure_of(options.ratio_of, costs)
    target = measure(costs.dense) * (1 - options.ratio)
    bounds = Limits(problem.bounds.step, problem.least)
    check_reachable(costs, bounds, measure, target)
    return list(problem.notes)


def chosen_widths(problem: Problem) -> Widths:
    """The widths that the options ask for, without latencies."""
    options, costs, bounds = problem.options, problem.costs, problem.bounds
    if options.rounding == "paper":
        return _paper(problem)
    if by_latency(options):
        raise RequestError(
            "latency is not known from a config: it is measured on the target",
            hint="use --ratio-of macs and --allocate global, or compile",
        )
    walked = widths_by_walk(problem)
    if not options.cuts_depth or problem.ranked is None or not options.ratio:
        return walked
    lost = total_loss(costs.units, problem.ranked)
    budget, around = budget_of(problem), covering(costs.units)
    solution = minimise(lost, [budget], bounds, walked, problem.start, around)
    better = solution.over == 0 and (solution.value <= lost(walked) or budget.over(walked) > 0)
    return solution.widths if better else walked


def widths_by_walk(problem: Problem) -> Widths:
    """The widths of a walk to the budget; where they have to fit, never above it."""
    options, costs = problem.options, problem.costs
    measure = measure_of(options.ratio_of, costs)
    most = aim = measure(costs.dense) * (1 - options.ratio)
    floor = measure(lowest(costs.dense, Limits(problem.bounds.step, problem.least)))
    while True:
        widths = walk(costs, problem.bounds, measure, aim, problem.walked, problem.start)
        over = measure(widths) - most
        if options.fit is None or over <= 0 or aim <= floor:
            return widths
        aim = max(aim - over, floor)


def budget_of(problem: Problem) -> Budget:
    """The cost that is asked for, to within what a walk lands on."""
    options = problem.options
    measure = measure_of(options.ratio_of, problem.costs)
    dense, left = measure(problem.costs.dense), 1 - options.ratio
    if options.fit is not None:
        return Budget("memory", measure, left * dense)
    return Budget(
        options.ratio_of, measure, (left + CLOSE_ENOUGH) * dense, (left - CLOSE_ENOUGH) * dense
    )


def measure_of(ratio_of: str, costs: CostModel) -> Measure:
    """What ``--ratio-of`` counts, latency apart (by_latency/search.py)."""
    return measures_of(costs)[ratio_of]


def measures_of(costs: CostModel) -> dict[str, Measure]:
    """Everything that ``--ratio-of`` can count from configs alone, by its name."""
    return {
        "macs": costs.macs,
        "params": costs.params,
        "memory": costs.memory,
        "channels": lambda widths: float(np.sum(widths * _elements(costs.units))),
    }


def _elements(units: Sequence[Unit]) -> NDArray[np.int64]:
    """How many elements of a layer's width one channel of each unit is; 0 for a branch."""
    elements = [0 if isinstance(unit, Branch) else unit.elements for unit in units]
    return np.array(elements, dtype=np.int64)


def _paper(problem: Problem) -> Widths:
    costs, bounds, options = problem.costs, problem.bounds, problem.options
    if options.ratio_of != "channels":
        raise RequestError(
            f"--rounding paper removes a share of channels, not of {options.ratio_of}",
            hint="add --ratio-of channels",
        )
    widths = paper_widths(costs.units, options.ratio)
    whole = bounds.least == costs.dense
    kept: Widths = np.where(whole, costs.dense, np.maximum(widths, 1))
    branches = len(costs.groups)
    kept[branches:] = problem.start[branches:]
    return kept


def _start_widths(costs: CostModel, bounds: Limits, widths: Mapping[str, int]) -> Widths:
    """The dense widths with the recipe's own put in, which the walk then leaves alone."""
    start: Widths = costs.dense.copy()
    for pattern, width in widths.items():
        left_out = [i for i, unit in enumerate(costs.units) if _leaves_out(unit, pattern, width)]
        for i in left_out or of_groups(costs.units, pattern):
            unit = costs.units[i]
            if not left_out and (not 0 < width <= unit.size or width % unit.runs):
                raise RequestError(
                    f"prune.widths: {unit.name} cannot have {width} channels",
                    hint=f"it has {unit.size} in {unit.runs} equal blocks",
                )
            start[i] = bounds.least[i] = width
    return start


def _leaves_out(unit: Unit, pattern: str, width: int) -> bool:
    if isinstance(unit, Stretch) or not isinstance(unit, Branch):
        return False
    return _left_out(unit, {pattern: width})


def _left_out(branch: Branch, widths: Mapping[str, int]) -> bool:
    """Whether the recipe's own widths leave the branch out: a pattern of its name, and 0."""
    return any(width == 0 and fnmatchcase(branch.name, name) for name, width in widths.items())


def _no_scores(units: Sequence[Unit]) -> dict[str, NDArray[np.float64]]:
    return {unit.name: np.zeros(unit.size) for unit in units}


def _check_finite(scores: Scores) -> None:
    for name, score in scores.items():
        if not np.isfinite(score).all():
            raise InputError(
                f"the importance of {name} holds NaN or infinity; nothing can be ranked"
            )


def _allocation(options: PruneSection) -> str:
    """The allocation of a plan; where ``auto`` has not become ``latency``, it is ``global``."""
    return "global" if options.allocate == "auto" else options.allocate


def _why(
    options: PruneSection, scores: Scores | None, why: Mapping[str, Any], align: int
) -> dict[str, Any]:
    return {
        "ratio": options.ratio,
        "cut": options.cut,
        "ratio_of": options.ratio_of,
        "fit": options.fit,
        "allocate": _allocation(options) if scores is not None else "uniform",
        "rounding": options.rounding,
        "align": align,
        "importance": dict(why) if scores is not None else None,
    }
