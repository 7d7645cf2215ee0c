"""From torch with the reference loop to the loop that is served: one change a rung.

The ladder of one step (ladders.py) has the loop's calls alone; this one has whole images, and how
close they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from diffc.measure.frontier.results import Frontier
from diffc.measure.frontier.rungs import ImageRung, image_ladder
from diffc.measure.frontier.standing import main_metric
from diffc.measure.quality.base import Metric
from diffc.report import frontiers, speed
from diffc.report.blocks import Block, Details, Notes, Part, Table
from diffc.report.ladder_chart import ChartRung, ladder_chart
from diffc.report.model import Report
from diffc.report.sections import Section
from diffc.report.units import factor, milliseconds

_HOW = (
    "the loops of the section before, all timed in turn in one process; factors are medians of "
    "paired ratios, with 95 % intervals within this run"
)


def _build(report: Report) -> Iterator[Part]:
    for frontier in report.frontiers:
        rungs = image_ladder(frontier)
        if rungs:
            where = f"{frontier.target}, {frontier.precision}"
            yield Part(f"From torch to the served loop: {where}", list(_blocks(frontier, rungs)))


def _blocks(frontier: Frontier, rungs: Sequence[ImageRung]) -> Iterator[Block]:
    metric = main_metric(frontier)
    label = "" if metric is None else metric.label
    shown = [ChartRung(rung.label, rung.cause, rung.by, rung.in_all) for rung in rungs]
    rows = [
        (*_cells(rung, bar), _figure(metric, rung)) for rung, bar in zip(rungs, shown, strict=True)
    ]
    yield Table(rows, ("", "one image", "by", "in all", label))
    by = f"by {frontier.n} images from the same noise"
    fewer = frontiers.fewer_images_words(frontier)
    yield Notes([f"{by}; {fewer}" if fewer else by, *_absent(frontier)])
    yield ladder_chart(shown, "one image", rungs[0].label)
    noise = [] if frontier.noise is None else [speed.noise_words(frontier.noise)]
    yield Details("How it was measured", [Notes([_HOW, *noise])])


def _cells(rung: ImageRung, shown: ChartRung) -> tuple[str, str, str, str]:
    latency = rung.point.latency_ms
    in_all = "1x" if rung.in_all is None else factor(rung.in_all.median)
    return rung.label, milliseconds(latency.p50 if latency else None), shown.by_words, in_all


def _figure(metric: Metric | None, rung: ImageRung) -> str:
    """The rung's figure; torch's own images are what all others are compared with."""
    if rung.point.side == "eager":
        return "reference"
    if metric is None or metric.name not in rung.figures:
        return "-"
    return metric.as_text(rung.figures[metric.name].value)


def _absent(frontier: Frontier) -> Iterator[str]:
    for point in frontier.points:
        if point.absent and point.side in ("eager", "dense-fp32", "all-steps"):
            yield f"{point.name}: not measured: {point.absent}"


SECTION = Section("From torch to the served loop", 17, _build)
