"""What a millisecond buys: the loops of both sides in time and quality, and who is ahead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from diffc.measure.frontier.results import Frontier, Point, Side
from diffc.measure.frontier.standing import main_metric, pareto
from diffc.measure.quality import reported_metric
from diffc.measure.quality.base import Metric
from diffc.report import frontiers, speed, svg
from diffc.report.blocks import Block, Chart, Details, Notes, Part, Table
from diffc.report.model import Report
from diffc.report.plot import Mark, Plot
from diffc.report.sections import Section
from diffc.report.units import milliseconds

FRONT = "* "
"""Before the figure of a point that no other one beats in both time and quality."""
_SIDES: tuple[Side, Side] = ("dense", "compressed")
_LABEL = (
    "each loop's time of one image against its closeness to the reference loop's images; the lines "
    "join the loops that no other one of their side beats; the numbers are in the table"
)


def _build(report: Report) -> Iterator[Part]:
    for frontier in report.frontiers:
        title = f"What a millisecond buys: {frontier.target}, {frontier.precision}"
        yield Part(title, list(_blocks(frontier)))


def _blocks(frontier: Frontier) -> Iterator[Block]:
    metric = main_metric(frontier)
    if frontier.absent:
        yield Notes([f"not measured: {frontier.absent}"])
    if metric is None:
        yield Notes(["no loop's images could be judged"])
        return
    best = pareto(_timed(frontier), metric)
    yield Table(list(_rows(frontier, metric, best)), _heads(metric))
    yield chart(frontier, metric)
    words = (frontiers.verdict_words(frontier), frontiers.crossing_words(frontier))
    yield Notes([sentence for sentence in (*words, *_how_read(frontier)) if sentence])
    others = list(_others(frontier, metric))
    if others:
        yield Details("Other figures of the same images", others)
    yield Details("How it was measured", [Notes(list(_how_measured(frontier)))])


def _timed(frontier: Frontier) -> list[Point]:
    """The points of both sides, the fastest first."""
    both = [point for side in _SIDES for point in frontier.of(side)]
    return sorted(both, key=lambda point: point.latency_ms.p50 if point.latency_ms else 0.0)


def _heads(metric: Metric) -> tuple[str, ...]:
    return ("loop", "dense", metric.label, "compressed", metric.label)


def _rows(
    frontier: Frontier, metric: Metric, best: Sequence[Point]
) -> Iterator[tuple[str, str, str, str, str]]:
    """A row for each loop, the longest first: its time and figure on both sides."""
    timed = {side: {point.loop: point for point in frontier.of(side)} for side in _SIDES}
    loops = dict.fromkeys(point.loop for point in reversed(_timed(frontier)))
    for loop in loops:
        cells = [_cells(timed[side].get(loop), metric, best) for side in _SIDES]
        yield loop, *cells[0], *cells[1]


def _cells(point: Point | None, metric: Metric, best: Sequence[Point]) -> tuple[str, str]:
    """The time and the figure of one side's loop; empty where it was not measured."""
    if point is None or point.latency_ms is None:
        return "", ""
    figure = point.figures.get(metric.name)
    mark = FRONT if any(point is one for one in best) else ""
    value = "-" if figure is None else metric.as_text(figure.value)
    return milliseconds(point.latency_ms.p50), f"{mark}{value}"


def _how_read(frontier: Frontier) -> Iterator[str]:
    yield (
        f"{FRONT.strip()} no loop of either side is both faster and closer to dense "
        f"{frontier.reference} of torch, by {frontier.n} images from the same noise"
    )
    yield frontiers.fewer_images_words(frontier)
    if frontier.other_seed is not None:
        value = f"{frontier.other_seed.value:.3f}"
        yield f"SSIM of that loop's images to those of other noise: {value}"
    for point in frontier.points:
        reason = point.absent or point.unjudged
        if reason and point.side in _SIDES:
            yield f"{point.name}: {'not measured' if point.absent else 'not judged'}: {reason}"


def chart(frontier: Frontier, metric: Metric) -> Chart:
    """The loops of both sides in time and quality, and the lines that no loop is beyond."""
    series, marks = [], []
    for side in _SIDES:
        points = [p for p in frontier.of(side) if metric.name in p.figures]
        front = pareto(points, metric)
        for point in points:
            on_front = any(point is one for one in front)
            sign = side[0].upper() if on_front else side[0]
            marks.append(Mark(_ms(point), point.figures[metric.name].value, sign))
        series.append(svg.Series(side, [_dot(p, metric) for p in points],
                                 [_dot(p, metric) for p in front]))  # fmt: skip
    key = "D dense, C compressed; small letters: another loop of that side beats it in both"
    y_name = f"{metric.label} to dense {frontier.reference}"
    plot = Plot(marks, "ms an image, logarithmic", y_name, key)
    return Chart(svg.fronts(series, "time of one image, ms", y_name, _LABEL), None, plot)


def _ms(point: Point) -> float:
    assert point.latency_ms is not None
    return point.latency_ms.p50


def _dot(point: Point, metric: Metric) -> tuple[str, float, float]:
    return point.loop, _ms(point), point.figures[metric.name].value


def _others(frontier: Frontier, metric: Metric) -> Iterator[Table]:
    """A table for each of the other metrics."""
    names = dict.fromkeys(name for point in frontier.points for name in point.figures)
    for name in names:
        other = reported_metric(name)
        if name != metric.name:
            yield Table(
                list(_rows(frontier, other, pareto(_timed(frontier), other))), _heads(other)
            )


def _how_measured(frontier: Frontier) -> Iterator[str]:
    rounds, batch = frontier.details.get("rounds", "?"), frontier.batch
    images = "one image" if batch == 1 else f"{batch} images"
    yield (
        f"whole loops of {images}, all loops of both sides in turn in one process, {rounds} "
        "rounds; times are medians; ahead is said where the 95 % interval of the difference, "
        "image by image from the same noise, excludes none"
    )
    yield from frontier.notes
    if frontier.noise is not None:
        yield speed.noise_words(frontier.noise)


SECTION = Section("What a millisecond buys", 15, _build)
