"""Recipe + scores -> Plan: the budget, the walk, and the figures before and after.

Works from configs alone on the meta device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffc.errors import InputError, RequestError
from diffc.models.families import family
from diffc.models.families.examples import meta_inputs
from diffc.models.groups import Group
from diffc.models.load import meta_denoiser
from diffc.models.source import Source
from diffc.prune.allocate import Limits, Measure, limits, matching, paper_widths, walk
from diffc.prune.cost import CostModel, Widths, cost_model
from diffc.prune.plan import Plan, group_plans
from diffc.recipe import PruneOptions, Recipe

Scores = Mapping[str, NDArray[np.float64]]


def cost_of(source: Source, resolution: int | None = None) -> CostModel:
    """The cost model of a model, traced on the meta device; its ``groups`` are what can be cut."""
    found = family(source.class_name)
    model = meta_denoiser(source)
    inputs = meta_inputs(found.specs(source.config, resolution))
    with torch.device("meta"):
        groups = found.groups(model, inputs)
        return cost_model(model, inputs, found.call, groups)


def make_plan(
    source: Source, recipe: Recipe, scores: Scores | None, why: Mapping[str, Any], align: int
) -> Plan:
    """The plan for ``source`` under ``recipe``.

    scores: None plans widths alone (the first channels of each block are named in its place).
    Raises RequestError when the budget cannot be met or a layer's name matches nothing.
    """
    costs = cost_of(source, recipe.export.resolution)
    options = recipe.prune
    bounds = limits(costs.groups, align=align, fixed=options.fixed, floors=options.floors)
    ranked = scores if scores is not None else _no_scores(costs.groups)
    _check_finite(ranked)
    by_importance = options.allocate == "global" and scores is not None
    widths = chosen_widths(costs, bounds, options, ranked if by_importance else None)
    return Plan(
        groups=group_plans(costs.groups, ranked, widths, bounds.step.tolist()),
        dense=costs.cost(costs.dense),
        compressed=costs.cost(widths),
        why=_why(options, scores, why, align),
    )


def chosen_widths(
    costs: CostModel, bounds: Limits, options: PruneOptions, scores: Scores | None
) -> Widths:
    """The widths that ``options`` ask for; ``scores`` None allocates uniformly."""
    if options.rounding == "paper":
        return _paper(costs, bounds, options)
    start = _pinned(costs, bounds, options.widths)
    measure = measure_of(options.ratio_of, costs)
    target = measure(costs.dense) * (1 - options.ratio)
    return walk(costs, bounds, measure, target, scores, start)


def measure_of(ratio_of: str, costs: CostModel) -> Measure:
    """What ``--ratio-of`` counts."""
    if ratio_of == "latency":
        raise RequestError(
            "--ratio-of latency needs latencies measured on the target",
            hint="use --ratio-of macs, and --allocate global",
        )
    measures: dict[str, Measure] = {
        "macs": costs.macs,
        "params": costs.params,
        "channels": lambda widths: float(np.sum(widths * _units(costs.groups))),
    }
    return measures[ratio_of]


def _units(groups: Sequence[Group]) -> NDArray[np.int64]:
    return np.array([group.unit for group in groups], dtype=np.int64)


def _paper(costs: CostModel, bounds: Limits, options: PruneOptions) -> Widths:
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
    start = costs.dense.copy()
    for pattern, width in widths.items():
        for i in matching(costs.groups, pattern):
            group = costs.groups[i]
            if not 0 < width <= group.size or width % group.blocks:
                raise RequestError(
                    f"prune.widths: {group.name} cannot have {width} channels",
                    hint=f"it has {group.size} in {group.blocks} equal blocks",
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
    options: PruneOptions, scores: Scores | None, why: Mapping[str, Any], align: int
) -> dict[str, Any]:
    return {
        "ratio": options.ratio,
        "ratio_of": options.ratio_of,
        "allocate": options.allocate if scores is not None else "uniform",
        "rounding": options.rounding,
        "align": align,
        "importance": dict(why) if scores is not None else None,
    }
