"""Who is ahead at equal time: what the points of a frontier say, and no more than they say.

Nothing is interpolated. At the time of a compressed loop stand the dense loops that were measured
and take no longer; the best of them is its rival. Ahead and behind are said where the interval of
the difference, image by image from the same noise, excludes none at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from diffc.measure.anchors import Estimated
from diffc.measure.frontier.results import Frontier, Point, ratio
from diffc.measure.quality import metrics_of
from diffc.measure.quality.base import Metric
from diffc.measure.statistics import estimate

Kind: TypeAlias = Literal["ahead", "level", "behind", "alone", "unknown"]
AS_LONG = 1.02
"""A loop that takes at most so many times another's time counts as taking as long."""


@dataclass(frozen=True)
class Standing:
    """A compressed loop beside the dense loops of its time.

    Attributes:
        own: The compressed loop.
        kind: Ahead, behind, or level where neither is shown; alone where no dense loop is as fast;
            unknown without figures.
        rival: The best dense loop that takes no longer; where there is none, the fastest one.
        difference: By how much ``own`` is better than ``rival``, image by image.
        slower: The time of ``rival`` over that of ``own``.
    """

    own: Point
    kind: Kind
    rival: Point | None = None
    difference: Estimated | None = None
    slower: float | None = None


@dataclass(frozen=True)
class Crossing:
    """Where the sides change places: between two compressed loops that were measured.

    Attributes:
        ahead: The slowest compressed loop that is ahead, or has no dense loop of its time.
        behind: The next slower one that is behind.
    """

    ahead: Standing
    behind: Standing


def main_metric(frontier: Frontier) -> Metric | None:
    """The metric that sides are compared by: the first that has a value for every image."""
    figures = {
        name: figure.each
        for point in frontier.points
        for name, figure in point.figures.items()
        if figure.each
    }
    return next(iter(metrics_of(figures)), None)


def value(point: Point, metric: Metric) -> float:
    """The point's figure; the worst there is where it has none."""
    figure = point.figures.get(metric.name)
    worst = float("-inf") if metric.better == "higher" else float("inf")
    return worst if figure is None else figure.value


def best(points: Sequence[Point], metric: Metric) -> Point | None:
    """The point with the best figure; None where no point has one."""
    judged = [point for point in points if metric.name in point.figures]
    if not judged:
        return None
    sign = 1 if metric.better == "higher" else -1
    return max(judged, key=lambda point: sign * value(point, metric))


def takes_no_longer(one: Point, other: Point) -> bool:
    """True where ``one`` is as fast as ``other``, by pairs of the same rounds."""
    times = ratio(one, other)
    return times is not None and times.median <= AS_LONG


def difference(own: Point, rival: Point, metric: Metric) -> Estimated | None:
    """By how much ``own`` is better, image by image; None without pairs.

    Images are in the order of the noise, so that those of fewer images pair with the first ones.
    """
    ours, theirs = (p.figures[metric.name].each for p in (own, rival))
    if not ours or not theirs:
        return None
    sign = 1 if metric.better == "higher" else -1
    mean = estimate([sign * (a - b) for a, b in zip(ours, theirs, strict=False)])
    return Estimated(mean=mean.mean, ci95=mean.ci95)


def standing(frontier: Frontier, own: Point) -> Standing:
    """Where a compressed loop stands."""
    metric, dense = main_metric(frontier), frontier.of("dense")
    if metric is None or metric.name not in own.figures or not dense:
        return Standing(own, "unknown")
    rival = best([point for point in dense if takes_no_longer(point, own)], metric)
    if rival is None:
        fastest = dense[0]
        times = ratio(fastest, own)
        return Standing(own, "alone", fastest, None, times.median if times else None)
    ahead, times = difference(own, rival, metric), ratio(rival, own)
    kind: Kind = "level"
    if ahead is not None and ahead.ci95 is not None:
        kind = "ahead" if ahead.ci95[0] > 0 else "behind" if ahead.ci95[1] < 0 else "level"
    return Standing(own, kind, rival, ahead, times.median if times else None)


def own_standing(frontier: Frontier) -> Standing | None:
    """Where the loop stands that is served; None where it was not timed."""
    own = frontier.with_role("compressed", "own")
    return None if own is None else standing(frontier, own)


def pareto(points: Sequence[Point], metric: Metric) -> list[Point]:
    """The points that no other one beats in both time and figure, the fastest first.

    Args:
        points: Timed points, the fastest first.
        metric: What they are compared by.
    """
    front: list[Point] = []
    sign = 1 if metric.better == "higher" else -1
    for point in points:
        judged = metric.name in point.figures
        if judged and (not front or sign * value(point, metric) > sign * value(front[-1], metric)):
            front.append(point)
    return front


def crossing(frontier: Frontier) -> Crossing | None:
    """Where ahead turns into behind as loops get longer; None where it does not."""
    metric = main_metric(frontier)
    if metric is None:
        return None
    every = [standing(frontier, p) for p in pareto(frontier.of("compressed"), metric)]
    last: Standing | None = None
    for one in every:
        if one.kind in ("ahead", "alone"):
            last = one
        elif one.kind == "behind" and last is not None:
            return Crossing(last, one)
    return None


def best_ahead(frontier: Frontier) -> Standing | None:
    """The best compressed loop that is ahead of the dense loops of its time; None where none is."""
    metric = main_metric(frontier)
    if metric is None:
        return None
    ahead = [
        one for p in frontier.of("compressed") if (one := standing(frontier, p)).kind == "ahead"
    ]
    chosen = best([one.own for one in ahead], metric)
    return next((one for one in ahead if one.own is chosen), None)
