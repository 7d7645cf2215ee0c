"""The best widths under several budgets at once.

    choose      one option of each group, figures that add up over groups: a multiple-choice
                knapsack, solved by HiGHS to a stated gap
    minimise    the real problem, whose figures are products and tables of several widths: each
                round writes them as a sum over groups around the widths at hand (exact where one
                group alone moves), lets no group move further than a radius that shrinks from round
                to round, and solves the knapsack; then steps of one or two groups, at their true
                figures, until none is better. A network of few groups is small enough to do more:
                the rounds begin at the least widths too, three groups step at once, and where no
                step is better any three groups (two, if three are too many to try) take any widths

The gap is the last knapsack's, as the solver states it. For the whole the tests compare with brute
force; there is no bound for large networks.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, combinations, product
from math import prod
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diffc.prune.allocate import (
    MOST_SWAPPED,
    Limits,
    Measure,
    lowest,
    swaps,
)
from diffc.prune.cost import Widths

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

_RADII = (1.0, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125, 0.0)  # shares of a group's size
_OVER = 1e3  # penalty for exceeding a budget by 100 %, as a multiple of the largest objective
_GAP = 1e-4
_SECONDS = 20.0
_MOST_SWEEPS = 20
_FEW = 8  # groups: every step of three is still cheap to try
_MOST_TRIED = 20_000  # widths of some groups at once, in one sweep
_MOST_OPTIONS = 12  # of one group in one round


@dataclass(frozen=True)
class Budget:
    """``least`` <= measure(widths) <= ``most``."""

    name: str
    measure: Measure
    most: float
    least: float = -np.inf

    def over(self, widths: Widths) -> float:
        """How far outside, as a share of ``most``; 0 inside."""
        value = self.measure(widths)
        return max(value - self.most, self.least - value, 0.0) / self.most


@dataclass(frozen=True)
class Choice:
    """chosen: an option of each group. gap: relative, between it and the best that could be."""

    chosen: list[int]
    gap: float


@dataclass(frozen=True)
class Solution:
    """widths (G,). value: the objective. over: the largest excess of a budget, 0 if none.

    gap: the last knapsack's.
    """

    widths: Widths
    value: float
    over: float
    gap: float


Options = Sequence[NDArray[np.float64]]
"""For each group, a figure for each of its options."""

Inside = Sequence[Sequence[int]]
"""For each group the branches that take it with them when they are left out."""


@dataclass(frozen=True)
class Rank:
    """Orders widths: by their excess over the budgets, then by the objective; lower is better."""

    objective: Measure
    budgets: Sequence[Budget]

    def __call__(self, widths: Widths) -> tuple[float, float]:
        """The sort key of ``widths``."""
        over = max(budget.over(widths) for budget in self.budgets)
        return round(over, 9), self.objective(widths)

    def best(self, candidates: Iterable[Widths]) -> Widths:
        """The first of the lowest, as ``min`` has it.

        Nothing more is measured of a candidate that is known to exceed a budget by more than the
        best until then, as nearly all do.
        """
        several = iter(candidates)
        best = next(several)
        lowest_key = self(best)
        for widths in several:
            if any(round(budget.over(widths), 9) > lowest_key[0] for budget in self.budgets):
                continue
            key = self(widths)
            if key < lowest_key:
                best, lowest_key = widths, key
        return best


def choose(
    losses: Options,
    costs: Sequence[Options],
    most: Sequence[float],
    least: Sequence[float],
    around: Inside = (),
) -> Choice:
    """Return one option of each group, of least summed loss within the budgets.

    Args:
        losses: For each group, the loss of each option.
        costs: For each budget, the same of the costs.
        most: For each budget, the most that the options may cost together. Where the budgets
            cannot be met, the choice exceeds them least (as shares of ``most``).
        least: For each budget, what they must cost at least.
        around: For each group the branches that take it with them. The first option of such a
            branch leaves it out: then the group has no option (-1 in the choice), no loss and no
            cost.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_matrix, hstack, vstack

    counts = [len(loss) for loss in losses]
    n, budgets = sum(counts), len(costs)
    scale = np.array([max(abs(float(value)), 1e-30) for value in most])
    price = np.vstack([np.concatenate(list(cost)) for cost in costs]) / scale[:, None]
    excess = csr_matrix(np.eye(budgets))
    one = _one_option_each(counts, around)
    empty = csr_matrix((len(counts), budgets))
    rows = vstack(
        [
            hstack([one, empty]),
            hstack([csr_matrix(price), -excess]),
            hstack([csr_matrix(price), excess]),
        ]
    )
    low = [*np.ones(len(counts)), *np.full(budgets, -np.inf), *(np.array(least) / scale)]
    high = [*np.ones(len(counts)), *(np.array(most) / scale), *np.full(budgets, np.inf)]
    loss = np.concatenate(list(losses))
    total = max(float(sum(np.abs(values).max() for values in losses)), 1e-30)
    with _quiet_stdout():
        solved = milp(
            np.concatenate([loss / total, np.full(budgets, _OVER)]),
            constraints=LinearConstraint(rows.tocsr(), low, high),
            integrality=np.concatenate([np.ones(n), np.zeros(budgets)]),
            bounds=Bounds(0, np.concatenate([np.ones(n), np.full(budgets, np.inf)])),
            options={"mip_rel_gap": _GAP, "time_limit": _SECONDS},
        )
    assert solved.x is not None, solved.message  # the excess makes every instance feasible
    parts = np.split(solved.x[:n], np.cumsum(counts)[:-1])
    chosen = [int(np.argmax(part)) if part.max() > 0.5 else -1 for part in parts]
    return Choice(chosen, float(solved.mip_gap or 0.0))


def _one_option_each(counts: Sequence[int], around: Inside) -> csr_matrix:
    """(G, N) rows that sum to 1: a group has one option, or a branch around it is left out."""
    from scipy.sparse import csr_matrix

    firsts = np.cumsum([0, *counts[:-1]])
    places = [(row, int(firsts[row]) + i) for row, count in enumerate(counts) for i in range(count)]
    places += [(row, int(firsts[b])) for row, branches in enumerate(around) for b in branches]
    rows, columns = zip(*places, strict=True)
    return csr_matrix((np.ones(len(places)), (rows, columns)), shape=(len(counts), sum(counts)))


@contextmanager
def _quiet_stdout() -> Iterator[None]:
    """HiGHS (in SciPy 1.17) prints a line of its own to the process's stdout now and then, which
    belongs to ``--json``."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a device, not a path
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def minimise(
    objective: Measure,
    budgets: Sequence[Budget],
    bounds: Limits,
    start: Widths,
    ceiling: Widths,
    around: Inside = (),
) -> Solution:
    """Return the widths of least objective within the budgets.

    Args:
        objective: Widths -> what is to be small, such as lost importance.
        budgets: What the widths may cost. Where they cannot all be met, the widths that exceed them
            least are returned.
        bounds: The least width of each group, and what widths are a multiple of.
        start: The widths to begin from.
        ceiling: The widest (dense). Where it is below a group's least width, the group keeps it.
        around: See ``choose``; the objective and the budgets count nothing of a group whose branch
            is left out.
    """

    rank = Rank(objective, budgets)
    allowed = [_allowed(group, bounds, ceiling) for group in range(len(start))]
    ends = []
    begins = [start]
    if len(start) <= _FEW:
        begins.append(lowest(ceiling, bounds).astype(start.dtype))
    for begin in begins:
        problem = _Rounds(objective, budgets, bounds, allowed, ceiling, around)
        best, gap = problem.solve(begin, rank)
        free = _Free(allowed, bounds, ceiling, around)
        ends.append((_polished(best, free, rank), gap))
    best, gap = min(ends, key=lambda end: rank(end[0]))
    over, value = rank(best)
    return Solution(best, value, over, gap)


@dataclass(frozen=True)
class _Rounds:
    """The rounds of ``minimise``, each of which solves a knapsack around the widths at hand."""

    objective: Measure
    budgets: Sequence[Budget]
    bounds: Limits
    allowed: Sequence[Widths]
    ceiling: Widths
    around: Inside

    def solve(self, start: Widths, rank: Rank) -> tuple[Widths, float]:
        """The best widths of all rounds from ``start``, and the last knapsack's gap."""
        best = now = start.copy()
        gap = 0.0
        for radius in _RADII:
            reach = np.maximum(radius * self.ceiling, self.bounds.step)
            near = [
                _near(now, group, self.allowed[group], reach[group]) for group in range(len(now))
            ]
            choice = self._choice(now, near)
            now = np.array(
                [
                    options[i] if i >= 0 else width
                    for options, i, width in zip(near, choice.chosen, now.tolist(), strict=True)
                ]
            )
            gap = choice.gap
            best = min((best, now), key=rank)
        return best, gap

    def _choice(self, now: Widths, near: Sequence[Widths]) -> Choice:
        most, least = [b.most for b in self.budgets], [b.least for b in self.budgets]
        around = [[b for b in branches if near[b][0] == 0] for branches in self.around]
        if not any(around):
            values = _separate(self.objective, now, near)
            prices = [_separate(budget.measure, now, near) for budget in self.budgets]
            return choose(values, prices, most, least)
        # A last group of one option holds what is there already: others count from there.
        values = _from_here(self.objective, now, near, around)
        prices = [_from_here(b.measure, now, near, around) for b in self.budgets]
        choice = choose(values, prices, most, least, [*around, ()])
        return Choice(choice.chosen[:-1], choice.gap)


def _from_here(
    measure: Measure, now: Widths, near: Sequence[Widths], around: Inside
) -> list[NDArray[np.float64]]:
    """For each group what each of its widths adds to the figure at hand, and last that figure.

    What a group inside a branch adds is counted with the branch there, and a branch that is out at
    hand adds what it is with its groups as they are.
    """
    base, figures = measure(now), []
    for group, options in enumerate(near):
        there = now.copy()
        there[list(around[group])] = 1
        reference = measure(there) if len(around[group]) else base
        values = []
        for width in options.tolist():
            moved = there.copy()
            moved[group] = width
            values.append(measure(moved) - reference)
        figures.append(np.array(values))
    return [*figures, np.array([base])]


def _allowed(group: int, bounds: Limits, ceiling: Widths) -> Widths:
    """Every width a group may have, ascending."""
    step, most = int(bounds.step[group]), int(ceiling[group])
    least = int(lowest(ceiling, bounds)[group])
    return np.array(sorted({*range(least, most, step), most}), dtype=np.int64)


def _near(now: Widths, group: int, allowed: Widths, radius: float) -> Widths:
    """The widths within ``radius`` of the group's own; spaced out evenly where they are many."""
    near: Widths = allowed[np.abs(allowed - now[group]) <= radius]
    if len(near) > _MOST_OPTIONS:
        picked = np.linspace(0, len(near) - 1, _MOST_OPTIONS).round().astype(int)
        near = near[picked]
    return np.unique(np.append(near, now[group]))


def _separate(measure: Measure, now: Widths, near: Sequence[Widths]) -> list[NDArray[np.float64]]:
    """For each group the figure of each of its widths while all others stay, so that the figures
    of the widths at hand add up to the whole."""
    base = measure(now)
    figures = []
    for group, options in enumerate(near):
        moved = now.copy()
        values = []
        for width in options.tolist():
            moved[group] = width
            values.append(measure(moved) - base + base / len(near))
        figures.append(np.array(values))
    return figures


@dataclass(frozen=True)
class _Free:
    """What widths may be: see ``minimise``."""

    allowed: Sequence[Widths]
    bounds: Limits
    ceiling: Widths
    around: Inside

    def filled(self, widths: Widths) -> Widths:
        """The same with whole groups inside of branches that are out, where they count nothing.

        One of these branches comes back for two others in one exchange then, as it was.
        """
        is_out = [any(widths[branch] == 0 for branch in branches) for branches in self.around]
        return np.where(is_out, self.ceiling, widths) if is_out else widths


def _polished(widths: Widths, free: _Free, rank: Rank) -> Widths:
    """Better widths by moving a few groups at once, until there are none."""
    if len(widths) > MOST_SWAPPED:
        return widths
    for _ in range(_MOST_SWEEPS):
        best = rank.best(_steps(widths, free.bounds, free.ceiling))
        if rank(best) >= rank(widths) and len(widths) <= _FEW:
            begins = {tuple(begin): begin for begin in (widths, free.filled(widths))}.values()
            exchanged = (_exchanges(begin, free.allowed) for begin in begins)
            best = rank.best(chain([widths], *exchanged))
        if rank(best) >= rank(widths):
            break
        widths = best
    return widths


def _steps(widths: Widths, bounds: Limits, ceiling: Widths) -> list[Widths]:
    """``widths``, and those with up to two groups, or three of few, moved by one step each."""
    tried = moved = [widths]
    for _ in range(3 if len(widths) <= _FEW else 2):
        moved = swaps(moved, bounds, ceiling)
        tried = [*tried, *moved]
    return tried


def _exchanges(widths: Widths, allowed: Sequence[Widths]) -> Iterator[Widths]:
    """Three groups at any widths, two where those are too many, or nothing."""
    counts = [len(options) for options in allowed]
    for size in (3, 2):
        groups = list(combinations(range(len(widths)), size))
        if sum(prod(counts[group] for group in some) for some in groups) <= _MOST_TRIED:
            break
    else:
        return
    for some in groups:
        for values in product(*(allowed[group].tolist() for group in some)):
            moved = widths.copy()
            moved[list(some)] = values
            yield moved
