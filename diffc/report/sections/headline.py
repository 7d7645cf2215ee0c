"""The report in one sentence, and its most important figures."""

from __future__ import annotations

from collections.abc import Iterator

from diffc.measure.quality import metrics_of
from diffc.measure.quality.base import Metric
from diffc.measure.results import Speedup, at_working
from diffc.report import speed
from diffc.report.blocks import Fact, Facts
from diffc.report.model import Report
from diffc.report.sections import Section
from diffc.report.units import change, count, interval
from diffc_runtime.json_types import JsonObject


def headline(report: Report) -> str:
    """One sentence: how much smaller, faster, how close."""
    if report.compressed is None:
        return f"{report.model.name}: {count(report.model.params)} parameters"
    parts = [f"{change(report.model.macs, report.compressed.macs)} MACs"]
    parts += speed.headline_parts(report.targets, report.pipeline)
    parts += [
        f"{metric.label} {metric.as_text(metric.value(figure))} to dense"
        for metric, figure in _quality_figures(report)
    ]
    return f"{report.model.name}: " + ", ".join(parts)


def _build(report: Report) -> Iterator[Facts]:
    yield Facts(headline(report), list(_facts(report)))


def _facts(report: Report) -> Iterator[Fact]:
    small = report.compressed
    if small is None:
        return
    for result in at_working(report.targets):
        if result.speedup is not None:
            yield _speed_fact(f"one call on {result.target}, {result.shape_words}", result.speedup)
    for result in report.pipeline:
        if result.speedup is not None:
            yield _speed_fact(f"{speed.images(result)} on {result.target}", result.speedup)
    yield Fact("MACs", change(report.model.macs, small.macs))
    yield Fact("parameters", change(report.model.params, small.params))
    for metric, figure in _quality_figures(report):
        value = metric.value(figure)
        if value is not None:
            images = f"{figure.get('n', '?')} images"
            yield Fact(f"{metric.label} to dense", metric.as_text(value), images)


def _quality_figures(report: Report) -> Iterator[tuple[Metric, JsonObject]]:
    """The figures of the samples that belong in the headline, with their metrics."""
    quality = report.quality or {}
    for metric in metrics_of(quality):
        if metric.in_headline and quality[metric.name]:
            yield metric, quality[metric.name]


def _speed_fact(what: str, speedup: Speedup) -> Fact:
    """A speed-up with its interval; where none is shown, that in the figure's place."""
    if speedup.is_shown:
        within = f"95 % {interval(speedup.ci95)}"
        return Fact(f"as fast, {what}", f"{speedup.median:.2f}x", within)
    return Fact(f"{speed.NOT_SHOWN}, {what}", "-", speed.with_interval(speedup))


SECTION = Section("Headline", 0, _build)
