"""The verdict in one sentence, and the report's most important figures."""

from __future__ import annotations

from collections.abc import Iterator

from diffc.measure.frontier.results import Frontier
from diffc.measure.frontier.rungs import image_ladder
from diffc.measure.frontier.standing import Standing, main_metric, own_standing
from diffc.measure.quality import metrics_of
from diffc.measure.quality.base import Metric
from diffc.measure.results import Speedup, TargetResult, at_working
from diffc.report import frontiers, speed
from diffc.report.blocks import Fact, Facts
from diffc.report.loops import count_words, dense_loop, image_words, loop_words
from diffc.report.model import Report
from diffc.report.quality_rows import distance_words
from diffc.report.sections import Section
from diffc.report.units import change, factor, milliseconds
from diffc.report.verdict import ssim_of, summary, verdicts, worst_value


def headline(report: Report) -> str:
    """The first line of every rendering: the verdict of the first target, and its reason."""
    return verdicts(report)[0].words


def _build(report: Report) -> Iterator[Facts]:
    first, *others = verdicts(report)
    products = [_product(report, one) for one in report.frontiers]
    notes = [*products, _shared_words(report), first.advice, *(one.words for one in others)]
    yield Facts(
        first.words,
        list(_facts(report)),
        [note for note in notes if note],
        summary(report),
    )


def _product(report: Report, frontier: Frontier) -> str:
    """How much faster than torch, and at how many times the dense model's distance."""
    words, distance = frontiers.product_words(frontier), distance_words(report.quality or {})
    return f"{words}, {distance}" if words and distance else words


def _shared_words(report: Report) -> str:
    """That other work ran beside the measurement, which no interval tells; '' where none did."""
    noises = (result.noise for result in (*report.pipeline, *report.targets))
    noise = next((one for one in noises if one is not None and one.shared), None)
    if noise is None:
        return ""
    words = speed.noise_words(noise)
    return f"other work ran while this was measured, and times may be far off; {words}"


def _facts(report: Report) -> Iterator[Fact]:
    small = report.compressed
    if small is None:
        return
    for result in report.pipeline:
        yield from _image_facts(result)
    yield from _quality_facts(report)
    for result in at_working(report.targets):
        if result.speedup is not None:
            yield _speed_fact(f"one step on {result.target}, {result.shape_words}", result.speedup)
    yield Fact("MACs", change(report.model.macs, small.macs))
    yield Fact("parameters", change(report.model.params, small.params))


def _image_facts(result: TargetResult) -> Iterator[Fact]:
    """The time of an image, and how much faster that is."""
    dense, small = result.dense.latency_ms, result.compressed.latency_ms
    if result.speedup is None or dense is None or small is None:
        return
    what, before = f"{image_words(result)} on {result.target}", "dense"
    theirs, ours = dense_loop(result.details), loop_words(result.details)
    if theirs != ours:
        what = f"{count_words(result)} on {result.target}, compressed ({ours})"
        before = f"dense ({theirs})"
    yield Fact(what, milliseconds(small.p50), f"{before} {milliseconds(dense.p50)}")
    yield _speed_fact("one image" if result.batch == 1 else "images", result.speedup)


def _quality_facts(report: Report) -> Iterator[Fact]:
    """Figures that belong in the headline, the worst image, and the dense model's in that time."""
    quality = report.quality or {}
    for metric in metrics_of(quality):
        value = metric.value(quality[metric.name] or {})
        if metric.in_headline and value is not None:
            images = f"mean of {quality[metric.name].get('n', '?')} images"
            yield Fact(f"{metric.label} to dense", metric.as_text(value), images)
    figure = ssim_of(report)
    worst = None if figure is None else worst_value(figure)
    if worst is not None:
        yield Fact("SSIM, worst image", f"{worst:.3f}")
    for frontier in report.frontiers:
        yield from _frontier_facts(report, frontier)
    for anchors in report.anchors:
        row = anchors.row("same-time")
        if row is not None:
            words = f"dense in the same time on {anchors.target}: {row.steps} steps"
            yield Fact(words, f"{row.ssim.mean:.3f}", "SSIM to all of its steps")


def _frontier_facts(report: Report, frontier: Frontier) -> Iterator[Fact]:
    """The best dense loop of the served loop's time, and the product over torch."""
    one, metric = own_standing(frontier), main_metric(frontier)
    if one is not None and one.rival is not None and metric is not None and one.kind != "alone":
        words = f"dense in the same time on {frontier.target}: {one.rival.loop}"
        value = metric.as_text(one.rival.figures[metric.name].value)
        same = f"{one.own.loop} by the same {frontier.n} images: {_own(one, metric)}"
        yield Fact(words, value, f"{metric.label}; {same}")
    rungs = image_ladder(frontier)
    if rungs and rungs[-1].in_all is not None and rungs[0].point.side == "eager":
        yield _speed_fact(f"one image beside torch eager on {frontier.target}", rungs[-1].in_all)


def _own(one: Standing, metric: Metric) -> str:
    return metric.as_text(one.own.figures[metric.name].value)


def _speed_fact(what: str, speedup: Speedup) -> Fact:
    """A speed-up with its interval; where none is shown, that in the figure's place."""
    if speedup.is_shown:
        within = f"95 % {speed.factor_interval(speedup)} within this run"
        return Fact(f"as fast, {what}", factor(speedup.median), within)
    return Fact(f"{speed.NOT_SHOWN}, {what}", "-", speed.with_interval(speedup))


SECTION = Section("Headline", 0, _build)
