"""A frontier in words: who is ahead at the served loop's own time, and what to do about it."""

from __future__ import annotations

from dataclasses import replace

from diffc.measure.frontier.results import Frontier, Point
from diffc.measure.frontier.rungs import ImageRung, image_ladder
from diffc.measure.frontier.standing import (
    Standing,
    best_ahead,
    crossing,
    main_metric,
    own_standing,
)
from diffc.measure.quality.base import Metric
from diffc.measure.results import Speedup
from diffc.report import speed
from diffc.report.model import Report
from diffc.report.units import milliseconds, number
from diffc_runtime.json_types import JsonObject
from diffc_runtime.loop import Loop


def figure_words(point: Point, metric: Metric) -> str:
    """'SSIM 0.931'."""
    return f"{metric.label} {metric.as_text(point.figures[metric.name].value)}"


def place_words(point: Point, metric: Metric) -> str:
    """'SSIM 0.931 in 340 ms'."""
    assert point.latency_ms is not None
    return f"{figure_words(point, metric)} in {milliseconds(point.latency_ms.p50)}"


def standing_words(frontier: Frontier, one: Standing) -> str:
    """Where one compressed loop stands, with the figures; '' where nothing can be said."""
    metric = main_metric(frontier)
    if metric is None or one.rival is None:
        return ""
    ours = f"{one.own.loop} has {place_words(one.own, metric)}"
    theirs = f"dense {one.rival.loop} has {place_words(one.rival, metric)}"
    if one.kind == "alone":
        times = "" if one.slower is None else f", {one.slower:.2f}x as long"
        if metric.name not in one.rival.figures:
            return f"{ours}, and no dense loop that was measured is as fast"
        return f"{ours}, and no dense loop that was measured is as fast: {theirs}{times}"
    sentences = {
        "ahead": f"ahead at equal time: {ours}, {theirs}",
        "behind": f"behind at equal time: {ours}, {theirs}",
        "level": f"level at equal time, neither shown to be closer: {ours}, {theirs}",
    }
    return sentences[one.kind] + _difference(one, metric)


def _difference(one: Standing, metric: Metric) -> str:
    """' (+0.048, 95 % [0.031, 0.066], image by image)'."""
    if one.difference is None or one.difference.ci95 is None:
        return ""
    low, high = (number(end, metric.digits) for end in one.difference.ci95)
    mean = f"{one.difference.mean:+.{metric.digits}f}"
    return f" ({mean}, 95 % [{low}, {high}], image by image)"


def verdict_words(frontier: Frontier) -> str:
    """The standing of the loop that is served; '' where nothing can be said."""
    own = own_standing(frontier)
    return "" if own is None else standing_words(frontier, own)


def ladder_of(report: Report, frontier: Frontier) -> list[ImageRung]:
    """The ladder of an image, whose engines' part is the speed-up of an image where both are one.

    One report has one figure for one thing: dense against compressed whole images were timed longer
    for the section on them. Where they were the same loops, that figure is what the rungs from the
    dense engine on multiply to, and the last of them is what it leaves.
    """
    rungs, image = image_ladder(frontier), _image_speedup(report, frontier)
    dense = next((i for i, rung in enumerate(rungs) if rung.point.side == "dense"), None)
    if image is None or dense is None or rungs[-1].point.side != "compressed":
        return rungs
    before, last = rungs[dense].in_all, rungs[-1]
    left = image
    for rung in rungs[dense + 1 : -1]:
        assert rung.by is not None
        left = speed.product(left, speed.inverse(rung.by))
    in_all = image if before is None else speed.product(before, image)
    return [*rungs[:-1], replace(last, by=left, in_all=in_all)]


def _image_speedup(report: Report, frontier: Frontier) -> Speedup | None:
    """The speed-up of whole images, if these were the reference loop and the served one."""
    own = frontier.with_role("compressed", "own")
    for result in report.pipeline:
        details = result.details
        loops = (details.get("reference") or details, details)
        wanted = (frontier.reference, own.loop if own else "")
        same = all(_is_loop(one, text) for one, text in zip(loops, wanted, strict=True))
        if (result.target, result.batch) == (frontier.target, frontier.batch) and same:
            return result.speedup
    return None


def _is_loop(details: JsonObject, text: str) -> bool:
    """Whether the details of timed images are of this loop, apart from its spacing."""
    if not text:
        return False
    loop = Loop.parse(text)
    timed = (details.get("sampler"), details.get("steps"), details.get("guidance", 1))
    return loop.spacing is None and timed == (loop.sampler, loop.steps, loop.guidance or 1)


def product_words(report: Report, frontier: Frontier) -> str:
    """'20.1x as fast an image as torch eager with ddim:50, at SSIM 0.868'; '' without torch."""
    rungs, metric = ladder_of(report, frontier), main_metric(frontier)
    last = rungs[-1] if rungs else None
    if last is None or last.in_all is None or rungs[0].point.side != "eager":
        return ""
    if last.point is not frontier.with_role("compressed", "own") or not last.in_all.is_shown:
        return ""
    judged = metric is not None and metric.name in last.point.figures
    close = f", at {figure_words(last.point, metric)}" if metric is not None and judged else ""
    times, loops = f"{last.in_all.median:.3g}x", f"{last.point.loop} against {frontier.reference}"
    return f"{times} as fast an image as torch eager on {frontier.target} ({loops}){close}"


def crossing_words(frontier: Frontier) -> str:
    """Where the two curves cross, between two loops that were measured; '' where they do not."""
    cross = crossing(frontier)
    if cross is None:
        return ""
    ahead, behind = cross.ahead.own, cross.behind.own
    assert ahead.latency_ms is not None and behind.latency_ms is not None
    return (
        f"the curves cross between {milliseconds(ahead.latency_ms.p50)}, where compressed "
        f"{ahead.loop} is ahead, and {milliseconds(behind.latency_ms.p50)}, where {behind.loop} "
        "is behind"
    )


def dominated_words(frontier: Frontier) -> str:
    """'BEHIND dense ddim:28 at equal time: ...', in few words; '' where the loop is not behind."""
    own, metric = own_standing(frontier), main_metric(frontier)
    if own is None or own.kind != "behind" or own.rival is None or metric is None:
        return ""
    there = place_words(own.rival, metric)
    return f"BEHIND dense {own.rival.loop} at equal time ({there}): {_what_to_do(frontier, metric)}"


def advice(frontier: Frontier) -> str:
    """What to do about a loop that is behind; '' where it is not."""
    own, metric = own_standing(frontier), main_metric(frontier)
    if own is None or own.kind != "behind" or own.rival is None or metric is None:
        return ""
    return f"{_what_to_do(frontier, metric)}; or serve the dense model with {own.rival.loop}"


def _what_to_do(frontier: Frontier, metric: Metric) -> str:
    """The best compressed loop that is ahead at its own time, or that there is none."""
    other = best_ahead(frontier)
    if other is None:
        return (
            "no compressed loop that was measured is ahead at its own time; "
            "--loop own:2 --distill-for loop trains it for two calls"
        )
    return f"--loop {other.own.loop} is ahead at its own time, {place_words(other.own, metric)}"
