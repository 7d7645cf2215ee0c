"""From torch with the reference loop to the loop that is served: one change a rung.

The ladder of one step (ladders.py) has the loop's calls alone; this one has whole images, and how
close they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from diffc.measure.frontier.results import Frontier
from diffc.measure.frontier.rungs import ImageRung
from diffc.measure.frontier.standing import main_metric
from diffc.measure.results import Speedup
from diffc.report import frontiers, speed, svg
from diffc.report.blocks import Block, Chart, Details, Notes, Part, Table
from diffc.report.model import Report
from diffc.report.sections import Section
from diffc.report.units import interval, milliseconds

_LABEL = (
    "the time of one image as a share of the first rung's, change by change; each bar lies in the "
    "outline of the one before; the numbers are in the table"
)
_HOW = (
    "the loops of the section before, all timed in turn in one process; factors are medians of "
    "paired ratios, with 95 % intervals"
)


def _build(report: Report) -> Iterator[Part]:
    for frontier in report.frontiers:
        rungs = frontiers.ladder_of(report, frontier)
        if rungs:
            where = f"{frontier.target}, {frontier.precision}"
            yield Part(f"From torch to the served loop: {where}", list(_blocks(frontier, rungs)))


def _blocks(frontier: Frontier, rungs: Sequence[ImageRung]) -> Iterator[Block]:
    metric = main_metric(frontier)
    label = "" if metric is None else metric.label
    rows = [(*_cells(rung), _figure(frontier, rung)) for rung in rungs]
    yield Table(rows, ("", "one image", "by", "in all", label))
    yield Notes(list(_absent(frontier)))
    bars = [
        (rung.label, 100 / (rung.in_all.median if rung.in_all else 1), _by(rung)) for rung in rungs
    ]
    numbers = [
        (rung.label, rung.cause or "-", *(_with_interval(one) for one in (rung.by, rung.in_all)))
        for rung in rungs
    ]
    picture = svg.steps(bars, f"time of one image, % of {rungs[0].label}", _LABEL)
    yield Chart(picture, Table(numbers, ("", "changed", "by", "in all"), texts=2))
    noise = [] if frontier.noise is None else [speed.noise_words(frontier.noise)]
    yield Details("How it was measured", [Notes([_HOW, *noise])])


def _cells(rung: ImageRung) -> tuple[str, str, str, str]:
    latency = rung.point.latency_ms
    in_all = "1x" if rung.in_all is None else f"{rung.in_all.median:.3g}x"
    return rung.label, milliseconds(latency.p50 if latency else None), _by(rung), in_all


def _by(rung: ImageRung) -> str:
    return "" if rung.by is None else f"{rung.by.median:.2f}x {rung.cause}"


def _with_interval(factor: Speedup | None) -> str:
    return "-" if factor is None else f"{factor.median:.2f}x {interval(factor.ci95)}"


def _figure(frontier: Frontier, rung: ImageRung) -> str:
    """The rung's figure; torch's own images are what all others are compared with."""
    metric = main_metric(frontier)
    if rung.point.side == "eager":
        return "reference"
    if metric is None or metric.name not in rung.point.figures:
        return "-"
    return metric.as_text(rung.point.figures[metric.name].value)


def _absent(frontier: Frontier) -> Iterator[str]:
    for point in frontier.points:
        if point.absent and point.side in ("eager", "dense-fp32"):
            yield f"{point.name}: not measured: {point.absent}"


SECTION = Section("From torch to the served loop", 17, _build)
