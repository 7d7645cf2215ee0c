"""A search on the screen: the Pareto table, the plot, the winner, what was not tried and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from diffc.measure.frontier.results import Point, ratio
from diffc.measure.frontier.standing import main_metric, pareto, standing
from diffc.measure.quality.base import Metric
from diffc.report.blocks import Block, Notes, Part, Table
from diffc.report.frontiers import standing_words
from diffc.report.sections.frontier import FRONT, chart
from diffc.report.units import factor, milliseconds, seconds
from diffc.trials.goals import DISTANCE, MEMORY, figure
from diffc.trials.results import CandidateResult, SearchResult

_SHOWN = 12
"""Rows of the table beside those of the front, at most."""


def parts(result: SearchResult) -> Iterator[Part]:
    """The search's parts, in the order of the screen."""
    metric = main_metric(result.frontier)
    title = f"Search: {result.model} on {result.target}; wanted: {' and '.join(result.goal_words)}"
    if metric is None or not result.candidates:
        yield Part(title, [Notes(["nothing was trained: no point may reach the goals"])])
    else:
        yield Part(title, list(_measured(result, metric)))
    untried = list(_untried(result))
    if untried:
        yield Part("Not tried", [Notes(untried)])
    if result.trials:
        yield Part("Trainings", [_trials(result)])


def _measured(result: SearchResult, metric: Metric) -> Iterator[Block]:
    frontier = result.frontier
    both = [*frontier.of("dense"), *frontier.of("compressed")]
    front = pareto(sorted(both, key=_ms), metric)
    yield Table(list(_rows(result, metric, front)), _heads(result, metric))
    yield chart(frontier, metric)
    yield Notes(list(_notes(result, metric, front)))


def _heads(result: SearchResult, metric: Metric) -> tuple[str, ...]:
    more = [name for name in (MEMORY, DISTANCE) if name in result.goals]
    words = {MEMORY: "memory", DISTANCE: "distance"}
    return (", ".join(result.axes), "time", "speed-up", metric.label, *(words[n] for n in more))


def _rows(result: SearchResult, metric: Metric, front: Sequence[Point]) -> Iterator[list[str]]:
    """Every candidate, and the dense loops of the front, the fastest first."""
    known = {one.point.name: one for one in result.candidates}
    points = [one.point for one in result.candidates] + [p for p in front if p.side == "dense"]
    front_names = {point.name for point in front}
    chosen = result.candidate(result.chosen)
    kept = [p for p in points if p.name in front_names or known[p.name] is chosen]
    others = [p for p in points if p.name not in {one.name for one in kept}][:_SHOWN]
    reference = result.frontier.with_role("dense", "reference")
    for point in sorted((p for p in (*kept, *others) if p.latency_ms), key=_ms):
        one = known.get(point.name)
        yield _row(result, metric, point, one, point.name in front_names, reference)


def _row(
    result: SearchResult,
    metric: Metric,
    point: Point,
    one: CandidateResult | None,
    is_front: bool,
    reference: Point | None,
) -> list[str]:
    faster = None if reference is None else ratio(reference, point)
    speed = "-" if faster is None else factor(faster.median)
    value = point.figures.get(metric.name)
    shown = "-" if value is None else metric.as_text(value.value)
    cells = [
        f"dense {point.variant} {point.loop}" if one is None else one.name,
        milliseconds(_ms(point)),
        speed,
        f"{FRONT if is_front else ''}{shown}",
    ]
    if MEMORY in result.goals:
        cells.append(figure(MEMORY, None if one is None else one.memory_bytes))
    if DISTANCE in result.goals:
        cells.append(figure(DISTANCE, None if one is None else one.distance))
    return cells


def _notes(result: SearchResult, metric: Metric, front: Sequence[Point]) -> Iterator[str]:
    frontier = result.frontier
    yield (
        f"{FRONT.strip()} no other loop, dense ones among them, is both faster and closer to dense "
        f"{frontier.reference}, by {frontier.n} images from the same noise; speed-up over that loop"
    )
    chosen = result.candidate(result.chosen)
    if chosen is not None and (words := standing_words(frontier, standing(frontier, chosen.point))):
        yield words
    left = len(result.candidates) - _SHOWN - sum(p.side == "compressed" for p in front)
    if left > 0:
        yield f"search.json has {left} points more that were measured"


def _untried(result: SearchResult) -> Iterator[str]:
    """Each reason once, with the candidates that it is of."""
    by_reason: dict[str, list[str]] = {}
    for one in result.untried:
        by_reason.setdefault(one.why, []).append(" ".join(one.values.values()))
    for reason, names in by_reason.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        yield f"{', '.join(names[:3])}{more}: {reason}"


def _trials(result: SearchResult) -> Table:
    rows = [
        [
            " ".join(one.values.values()) + (", short" if one.short else ""),
            f"{one.steps}",
            seconds(one.seconds),
        ]
        for one in result.trials
    ]
    return Table(rows, ("trained for", "steps", "training"))


def summary(result: SearchResult) -> str:
    """The last line: what was chosen, and where it is."""
    chosen = result.candidate(result.chosen)
    metric = main_metric(result.frontier)
    if chosen is None or metric is None:
        return ""
    there = chosen.point.figures.get(metric.name)
    close = "" if there is None else f", {metric.label} {metric.as_text(there.value)}"
    faster = "" if chosen.speedup is None else f", {factor(chosen.speedup.median)} as fast as dense"
    return f"{result.out}: {chosen.name}: {milliseconds(_ms(chosen.point))}{faster}{close}"


def _ms(point: Point) -> float:
    return point.latency_ms.p50 if point.latency_ms else 0.0
