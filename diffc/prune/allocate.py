"""Widths under a budget.

Every allocation is a walk: from the dense widths, one aligned step at a time is taken from the
group that the policy says can best spare it, until the budget is met. Policies differ in that one
choice:

    uniform   the group that keeps the largest share of its channels
    global    the group that loses the least importance per MAC (parameter, ...) saved

``latency`` begins from the global walk and goes on in by_latency/search.py.

A walk is the same for every ratio, it only stops earlier or later, so more ratio never means more
cost. ``paper`` rounding is the published code's formula instead of a walk.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from diffc.errors import unknown
from diffc.models.branches import Branch, Stretch, Unit, covering
from diffc.models.groups import Group
from diffc.prune.cost import CostModel, Widths
from diffc.prune.reach import Reach

Scores = Mapping[str, NDArray[np.float64]]
Measure = Callable[[Widths], float]

DEFAULT_FLOOR = 0.125
MOST_SWAPPED = 80  # groups: above it pairs are too many to try, and steps are fine enough
CLOSE_ENOUGH = 0.0025  # of the dense cost: below this a landing is not adjusted any more


@dataclass(frozen=True)
class Limits:
    """What each unit may become, as (U,) arrays.

    Attributes:
        step: Widths go down by this many channels; 1 for a branch.
        least: The smallest width; at least 1 for a group, 0 for a branch that may be left out.
    """

    step: NDArray[np.int64]
    least: NDArray[np.int64]


def limits(
    units: Sequence[Unit],
    *,
    align: int,
    fixed: Sequence[str] = (),
    floors: Mapping[str, float] | None = None,
) -> Limits:
    """The limits of ``units``.

    Args:
        align: What the target wants widths to be a multiple of.
        fixed: Patterns of layers that may not be cut.
        floors: Pattern -> least share kept. One that matches no channels, but branches, has these
            stay, unless it is 0.

    Raises:
        RequestError: When a pattern matches no layer.
    """
    step = np.array([unit_step(unit, align) for unit in units], dtype=np.int64)
    size = np.array([unit.size for unit in units], dtype=np.int64)
    share = np.full(len(units), DEFAULT_FLOOR)
    whole: list[int] = []  # a branch is kept whole or not at all
    for pattern, floor in (floors or {}).items():
        chosen = of_groups(units, pattern)
        share[chosen] = floor
        whole += [i for i in chosen if isinstance(units[i], Branch) and floor > 0]
    least = np.minimum(np.ceil(share * size / step) * step, size).astype(np.int64)
    least = np.maximum(least, np.minimum(step, size))
    least[[isinstance(unit, Branch) for unit in units]] = 0
    least[whole] = 1
    around = covering(units)
    for pattern in fixed:
        chosen = matching(units, pattern)
        least[chosen] = size[chosen]
        for branch in {branch for i in chosen for branch in around[i]}:
            least[branch] = 1  # what is inside it would go with it
    return Limits(step, least)


def unit_step(unit: Unit, align: int) -> int:
    """The multiple that a unit's kept number must be: whole runs, and aligned elements."""
    if isinstance(unit, Branch):
        return 1
    aligned = align // math.gcd(align, unit.elements)
    if unit.kind == "heads":
        aligned = min(aligned, max(1, unit.size // 2))
    return math.lcm(unit.runs, aligned)


def matching(units: Sequence[Unit], pattern: str) -> list[int]:
    """Indices of the units whose name, or one of whose layers, matches the glob ``pattern``."""
    indices = [i for i, unit in enumerate(units) if _matches(unit, pattern)]
    if not indices:
        raise unknown("layer", pattern, {unit.name for unit in units})
    return indices


def of_groups(units: Sequence[Unit], pattern: str) -> list[int]:
    """Indices of the groups that match; those of branches where nothing else does."""
    indices = matching(units, pattern)
    return [i for i in indices if not isinstance(units[i], Branch)] or indices


def _matches(unit: Unit, pattern: str) -> bool:
    layers = () if isinstance(unit, Branch) else unit.slices
    return fnmatchcase(unit.name, pattern) or any(
        fnmatchcase(piece.module, pattern) for piece in layers
    )


def paper_widths(units: Sequence[Unit], ratio: float) -> Widths:
    """C - floor((C - int(C (1 - r))) / G) G, as the published Diff-Pruning code rounds.

    A GEGLU keeps (1 - r)^2: its two halves are cut by r each, at positions of their own, and a
    channel stays only where both stay. The published LDM-4 is smaller for it.
    """
    kept = [
        unit.size if isinstance(unit, Branch) else _paper_width(unit, 1 - ratio) for unit in units
    ]
    return np.array(kept, dtype=np.int64)


def _paper_width(group: Group, share: float) -> int:
    if group.kind == "ffn" and any(piece.index.shape[1] == 2 for piece in group.slices):
        return round(group.size * share**2)
    return group.size - (group.size - int(group.size * share)) // group.runs * group.runs


def walk(
    costs: CostModel,
    bounds: Limits,
    measure: Measure,
    target: float,
    scores: Scores | None,
    start: Widths | None = None,
) -> Widths:
    """Return widths whose measure is as near to the target as single steps allow.

    Args:
        costs: The units, and what they cost.
        bounds: The least width of each unit, and what widths are a multiple of.
        measure: Widths -> what is to be lowered, such as MACs.
        target: What ``measure`` should come to.
        scores: Unit -> (C,) importance of its channels; None takes the same share of every unit.
        start: The widths to begin from; None: the dense ones.

    Raises:
        RequestError: The target cannot be reached.
    """
    ceiling = costs.dense if start is None else start
    widths = ceiling.copy()
    least = np.minimum(bounds.least, widths)
    bounds = Limits(bounds.step, least)
    check_reachable(costs, bounds, measure, target)
    pick = _uniform_picker(costs, bounds) if scores is None else None
    choose = pick or _global_picker(costs, bounds, measure, scores or {}, widths)
    before = widths.copy()
    while measure(widths) > target:
        group = choose(widths)
        before = widths.copy()
        widths[group] = stepped_down(int(widths[group]), int(bounds.step[group]))
    dense = measure(costs.dense)
    landed = _land(before, widths, bounds, ceiling, lambda w: abs(measure(w) - target) / dense)
    if scores is None:
        return landed
    lost = total_loss(costs.units, scores)
    return _improved(landed, bounds, ceiling, measure, lost)


def total_loss(units: Sequence[Unit], scores: Scores) -> Measure:
    """The importance lost at any widths, when the best channels are kept.

    A branch that is left out loses its own importance, and nothing of what is inside it besides.
    """
    losses = [loss_by_width(unit, scores[unit.name]) for unit in units]
    inside = covering(units)

    def lost(widths: Widths) -> float:
        kept = widths.tolist()
        return sum(
            loss(width)
            for loss, width, around in zip(losses, kept, inside, strict=True)
            if all(kept[branch] for branch in around)
        )

    return lost


def unranked_scores(units: Sequence[Unit]) -> Scores:
    """Scores where none were measured: cutting a share s of a unit loses s^2.

    Which channels go does not matter; the first ones are kept.
    """
    scores = {}
    for unit in units:
        each = unit.size // unit.runs
        ramp = (2 * np.arange(each, 0, -1) - 1) / (each * each * unit.runs)
        scores[unit.name] = np.tile(ramp, unit.runs)
    return scores


def stepped_down(width: int, step: int) -> int:
    """The next smaller multiple of ``step``."""
    return (width - 1) // step * step


def _uniform_picker(costs: CostModel, bounds: Limits) -> Callable[[Widths], int]:
    def choose(widths: Widths) -> int:
        share = np.where(_can_step(widths, bounds), widths / costs.dense, -1.0)
        return int(np.argmax(share))

    return choose


def _global_picker(
    costs: CostModel, bounds: Limits, measure: Measure, scores: Scores, widths: Widths
) -> Callable[[Widths], int]:
    """Lazy greedy: savings only shrink as other groups shrink, so a stale price is a lower bound,
    and the cheapest group is found by repricing the top of a heap until it stays on top. A branch
    gets cheaper as what is inside it loses importance, so it is priced anew then."""
    losses = [loss_by_width(unit, scores[unit.name]) for unit in costs.units]
    around = covering(costs.units)
    inner = [[i for i, some in enumerate(around) if unit in some] for unit in range(len(around))]

    def price(group: int, now: Widths) -> float:
        after = now.copy()
        after[group] = stepped_down(int(now[group]), int(bounds.step[group]))
        lost = losses[group](int(after[group])) - losses[group](int(now[group]))
        lost -= sum(losses[i](int(now[i])) for i in inner[group] if _present(now, around[i]))
        return max(lost, 0.0) / max(measure(now) - measure(after), 1e-9)

    movable = np.flatnonzero(_can_step(widths, bounds)).tolist()
    heap = [(price(group, widths), group) for group in movable]
    heapq.heapify(heap)

    cheaper: list[int] = []  # the branches around the group that stepped last

    def choose(now: Widths) -> int:
        for branch in cheaper:
            heapq.heappush(heap, (price(branch, now), branch))
        while True:
            group = int(heapq.heappop(heap)[1])
            if not (_can_step(now, bounds)[group] and _present(now, around[group])):
                continue
            current = price(group, now)
            heapq.heappush(heap, (current, group))
            if heap[0][1] == group:
                cheaper[:] = around[group]
                return group

    return choose


def _present(widths: Widths, around: Sequence[int]) -> bool:
    """Whether none of the branches ``around`` a unit is left out."""
    return all(widths[branch] for branch in around)


def settled(units: Sequence[Unit], widths: Widths) -> Widths:
    """``widths`` with what goes with a branch: branches inside it go too, and its groups are
    whole, since nothing is left of them to cut."""
    result: Widths = widths.copy()
    for place, around in enumerate(covering(units)):
        if not _present(widths, around):
            result[place] = 0 if isinstance(units[place], Branch) else units[place].size
    return result


def loss_by_width(unit: Unit, score: NDArray[np.float64]) -> Callable[[int], float]:
    """Importance lost when the best ``width`` channels are kept, run by run."""
    rows = -np.sort(-score.reshape(unit.runs, -1), axis=1)
    kept = np.concatenate([[0.0], np.cumsum(rows.sum(axis=0))])
    total = float(kept[-1])
    return lambda width: total - float(kept[width // unit.runs])


def _can_step(widths: Widths, bounds: Limits) -> NDArray[np.bool_]:
    lower = (widths - 1) // bounds.step * bounds.step
    fits: NDArray[np.bool_] = (lower >= bounds.least) & (widths > 0)
    return fits


def reach_of(costs: CostModel, bounds: Limits, measure: Measure) -> Reach:
    """How far ``measure`` can be lowered within the limits."""
    stays = measure(lowest(costs.dense, bounds)) / measure(costs.dense)
    return Reach(stays, tuple(_held_by(costs, bounds, measure)))


def check_reachable(costs: CostModel, bounds: Limits, measure: Measure, target: float) -> None:
    """Refuse a target that is below what the least widths cost.

    Args:
        costs: The units, and what they cost.
        bounds: The least width of each unit, and what widths are a multiple of.
        measure: Widths -> what is to be lowered.
        target: What it should come to.

    Raises:
        RequestError: The target is out of reach; the message says how much can be removed.
    """
    if measure(lowest(costs.dense, bounds)) > target:
        reach_of(costs, bounds, measure).check_ratio(1 - target / measure(costs.dense))


def _held_by(costs: CostModel, bounds: Limits, measure: Measure) -> list[str]:
    """The three units that may not shrink which would save the most if they could go."""
    least = lowest(costs.dense, bounds)
    around = covering(costs.units)
    saved = {}
    for place, unit in enumerate(costs.units):
        if isinstance(unit, Stretch):  # its blocks are named
            continue
        if least[place] == costs.dense[place] and _present(least, around[place]):
            gone = least.copy()
            gone[place] = 0 if isinstance(unit, Branch) else min(bounds.step[place], unit.size)
            saved[unit.name] = measure(least) - measure(gone)
    return sorted((n for n in saved if saved[n] > 0), key=lambda n: -saved[n])[:3]


def lowest(dense: Widths, bounds: Limits) -> Widths:
    """The widths that a walk with no end comes to."""
    aligned = -(-bounds.least // bounds.step) * bounds.step
    result: Widths = np.minimum(aligned, dense)
    return result


def _land(
    before: Widths, after: Widths, bounds: Limits, dense: Widths, error: Callable[[Widths], float]
) -> Widths:
    """The nearest landing around the target: the last step, another last step, or a swap of two."""
    best = min((before, after), key=error)
    for base in (before, after):
        if error(best) <= CLOSE_ENOUGH:
            break
        moves = [w for g in range(len(base)) for w in neighbours(base, g, bounds, dense)]
        best = min([best, *moves], key=error)
        if error(best) > CLOSE_ENOUGH and len(base) <= MOST_SWAPPED:
            best = min([best, *swaps(moves, bounds, dense)], key=error)
    return best


def _improved(
    widths: Widths, bounds: Limits, dense: Widths, measure: Measure, lost: Measure
) -> Widths:
    """Swaps of two groups' steps that lose less importance at no more cost, until there is none.

    The walk never takes a step back, so what it gave up early can be worth more than what it gives
    up late.
    """
    if len(widths) > MOST_SWAPPED:
        return widths
    ceiling = measure(widths)
    while True:
        moves = [w for g in range(len(widths)) for w in neighbours(widths, g, bounds, dense)]
        cheaper = [w for w in swaps(moves, bounds, dense) if measure(w) <= ceiling]
        best = min([widths, *cheaper], key=lost)
        if lost(best) >= lost(widths):
            return widths
        widths = best


def swaps(moves: Sequence[Widths], bounds: Limits, dense: Widths) -> list[Widths]:
    """Return ``moves``, each with one more step of any group.

    Args:
        moves: Widths that are one step from where the search is.
        bounds: The least width of each unit, and what widths are a multiple of.
        dense: The widest.
    """
    return [
        w for first in moves for g in range(len(first)) for w in neighbours(first, g, bounds, dense)
    ]


def neighbours(widths: Widths, group: int, bounds: Limits, dense: Widths) -> list[Widths]:
    """Return the widths one aligned step below and above in one group, where the bounds allow them.

    Args:
        widths: Where the search is.
        group: The group's number.
        bounds: The least width of each unit, and what widths are a multiple of.
        dense: The widest.
    """
    step = int(bounds.step[group])
    down = stepped_down(int(widths[group]), step)
    up = min(int(widths[group]) // step * step + step, int(dense[group]))
    moves = []
    for width in (down, up):
        if int(bounds.least[group]) <= width != widths[group]:
            moved = widths.copy()
            moved[group] = width
            moves.append(moved)
    return moves
