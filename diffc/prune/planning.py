"""Recipe + scores -> Plan: the budget, the walk, and the figures before and after.

Works from configs alone on the meta device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffc.data.inputs import data_text_tokens
from diffc.errors import InputError, RequestError
from diffc.input_size import Size
from diffc.models.dry_run import dry_call
from diffc.models.families import family
from diffc.models.families.examples import meta_inputs
from diffc.models.groups import Group
from diffc.models.inputs import input_specs
from diffc.models.load import meta_denoiser
from diffc.models.resolutions import check_resolution
from diffc.models.source import Source
from diffc.prune.allocate import (
    Limits,
    Measure,
    check_reachable,
    limits,
    matching,
    paper_widths,
    walk,
)
from diffc.prune.cost import CostModel, Widths, cost_model
from diffc.prune.plan import Plan, group_plans
from diffc.recipe import ExportSection, PruneSection, Recipe
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
    def walked(self) -> Scores | None:
        """The importance that decides on widths; None for uniform ones."""
        return None if self.options.allocate == "uniform" else self.ranked


def problem_of(source: Source, recipe: Recipe, scores: Scores | None, align: int) -> Problem:
    """The problem that ``recipe`` poses for ``source``.

    Raises RequestError when a layer's name matches nothing, InputError when a score is not finite.
    """
    tokens = data_text_tokens(recipe)
    (costs, notes), options = _traced(source, recipe.export.size, tokens), recipe.prune
    bounds = limits(costs.groups, align=align, fixed=options.fixed, floors=options.floors)
    _check_finite(scores or {})
    start = _pinned(costs, bounds, options.widths)
    return Problem(
        source, options, recipe.export, align, costs, bounds, start, scores, tokens, tuple(notes)
    )  # fmt: skip


def plan_of(problem: Problem, widths: Widths, why: Mapping[str, Any]) -> Plan:
    """The plan at ``widths``. why: how the importance was found."""
    costs, bounds = problem.costs, problem.bounds
    ranked = problem.ranked if problem.ranked is not None else _no_scores(costs.groups)
    return Plan(
        groups=group_plans(costs.groups, ranked, widths, bounds.step.tolist()),
        dense=costs.cost(costs.dense),
        compressed=costs.cost(widths),
        why=_why(problem.options, problem.ranked, why, problem.align),
    )


def cost_of(source: Source, resolution: Size | None = None, tokens: int | None = None) -> CostModel:
    """The cost model of a model, traced on the meta device; its ``groups`` are what can be cut.

    Args:
        resolution, tokens: as in ``diffc.models.inputs.input_specs``.

    Raises:
        InputError: when the class cannot be made from its config, or cannot be called.
    """
    return _traced(source, resolution, tokens)[0]


def _traced(
    source: Source, resolution: Size | None, tokens: int | None
) -> tuple[CostModel, list[str]]:
    """The cost model, and the notes of the dry call, of one model on the meta device."""
    found = family(source.class_name)
    check_resolution(source.class_name, source.config, () if resolution is None else (resolution,))
    specs = input_specs(source, resolution, tokens)
    model = meta_denoiser(source)
    notes = dry_call(model, found, specs)
    inputs = meta_inputs(specs)
    with torch.device("meta"):
        groups = found.groups(model, inputs)
        return cost_model(model, inputs, found.call, groups), notes


def make_plan(
    source: Source, recipe: Recipe, scores: Scores | None, why: Mapping[str, Any], align: int
) -> Plan:
    """The plan for ``source`` under ``recipe``.

    scores: None plans widths alone (the first channels of each block are named in its place).
    Raises RequestError when the budget cannot be met or a layer's name matches nothing.
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
    problem = problem_of(source, recipe, None, align)
    options, costs = recipe.prune, problem.costs
    if options.rounding == "paper":
        _paper(costs, problem.bounds, options)
        return list(problem.notes)
    if options.ratio_of == "latency":
        return list(problem.notes)
    measure = measure_of(options.ratio_of, costs)
    target = measure(costs.dense) * (1 - options.ratio)
    least = np.minimum(problem.bounds.least, problem.start)
    check_reachable(costs, Limits(problem.bounds.step, least), measure, target)
    return list(problem.notes)


def chosen_widths(problem: Problem) -> Widths:
    """The widths that the options ask for, without latencies."""
    options, costs, bounds = problem.options, problem.costs, problem.bounds
    if options.rounding == "paper":
        return _paper(costs, bounds, options)
    if by_latency(options):
        raise RequestError(
            "latency is not known from a config: it is measured on the target",
            hint="use --ratio-of macs and --allocate global, or compile",
        )
    measure = measure_of(options.ratio_of, costs)
    target = measure(costs.dense) * (1 - options.ratio)
    return walk(costs, bounds, measure, target, problem.walked, problem.start)


def by_latency(options: PruneSection) -> bool:
    """Whether the widths depend on measured latencies."""
    return options.rounding == "align" and "latency" in (options.allocate, options.ratio_of)


def measure_of(ratio_of: str, costs: CostModel) -> Measure:
    """What ``--ratio-of`` counts, latency apart (by_latency/search.py)."""
    measures: dict[str, Measure] = {
        "macs": costs.macs,
        "params": costs.params,
        "channels": lambda widths: float(np.sum(widths * _units(costs.groups))),
    }
    return measures[ratio_of]


def _units(groups: Sequence[Group]) -> NDArray[np.int64]:
    return np.array([group.unit for group in groups], dtype=np.int64)


def _paper(costs: CostModel, bounds: Limits, options: PruneSection) -> Widths:
    if options.ratio_of != "channels":
        raise RequestError(
            f"--rounding paper removes a share of channels, not of {options.ratio_of}",
            hint="add --ratio-of channels",
        )
    widths = paper_widths(costs.groups, options.ratio)
    whole = bounds.least == costs.dense
    kept: Widths = np.where(whole, costs.dense, np.maximum(widths, 1))
    return kept


def _pinned(costs: CostModel, bounds: Limits, widths: Mapping[str, int]) -> Widths:
    """The dense widths with the recipe's own put in, which the walk then leaves alone."""
    start: Widths = costs.dense.copy()
    for pattern, width in widths.items():
        for i in matching(costs.groups, pattern):
            group = costs.groups[i]
            if not 0 < width <= group.size or width % group.runs:
                raise RequestError(
                    f"prune.widths: {group.name} cannot have {width} channels",
                    hint=f"it has {group.size} in {group.runs} equal blocks",
                )
            start[i] = bounds.least[i] = width
    return start


def _no_scores(groups: Sequence[Group]) -> Scores:
    return {group.name: np.zeros(group.size) for group in groups}


def _check_finite(scores: Scores) -> None:
    for name, score in scores.items():
        if not np.isfinite(score).all():
            raise InputError(
                f"the importance of {name} holds NaN or infinity; nothing can be ranked"
            )


def _why(
    options: PruneSection, scores: Scores | None, why: Mapping[str, Any], align: int
) -> dict[str, Any]:
    return {
        "ratio": options.ratio,
        "ratio_of": options.ratio_of,
        "allocate": options.allocate if scores is not None else "uniform",
        "rounding": options.rounding,
        "align": align,
        "importance": dict(why) if scores is not None else None,
    }
