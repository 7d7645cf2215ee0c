"""A frontier in words: who is ahead at the served loop's own time, and what to do about it."""

from __future__ import annotations

from diffc.measure.frontier.results import Frontier, Point
from diffc.measure.frontier.rungs import image_ladder
from diffc.measure.frontier.standing import (
    Standing,
    best_ahead,
    crossing,
    main_metric,
    own_standing,
)
from diffc.measure.quality.base import Metric
from diffc.report.units import factor, milliseconds, number


def figure_words(point: Point, metric: Metric) -> str:
    """'SSIM 0.931'."""
    return f"{metric.label} {metric.as_text(point.figures[metric.name].value)}"


def place_words(point: Point, metric: Metric) -> str:
    """'SSIM 0.931 in 340 ms'."""
    assert point.latency_ms is not None
    return f"{figure_words(point, metric)} in {milliseconds(point.latency_ms.p50)}"


def standing_words(frontier: Frontier, one: Standing) -> str:
    """Say how one compressed loop compares with the dense loops of its time, with the figures.

    Empty where nothing can be said.
    """
    metric = main_metric(frontier)
    if metric is None or one.rival is None:
        return ""
    ours = f"{one.own.loop} has {place_words(one.own, metric)}"
    theirs = f"dense {one.rival.loop} has {place_words(one.rival, metric)}"
    if one.kind == "alone":
        times = "" if one.slower is None else f", {factor(one.slower)} as long"
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


def fewer_images_words(frontier: Frontier) -> str:
    """Which figures are of fewer images than the others; '' where none are."""
    fewer = frontier.of_fewer_images()
    if not fewer:
        return ""
    loops = " and ".join(f"{point.name}" for point, _ in fewer)
    count = min(count for _, count in fewer)
    return f"of {loops}, the first {count} of these images"


def product_words(frontier: Frontier) -> str:
    """'20.1x as fast an image as torch eager (ddim:10 against ddim:50)'; '' without torch.

    How close the image is stands before it in the verdict, of more images.
    """
    rungs = image_ladder(frontier)
    last = rungs[-1] if rungs else None
    if last is None or last.in_all is None or rungs[0].point.side != "eager":
        return ""
    if last.point is not frontier.with_role("compressed", "own") or not last.in_all.is_shown:
        return ""
    times, loops = factor(last.in_all.median), f"{last.point.loop} against {frontier.reference}"
    return f"{times} as fast an image as torch eager on {frontier.target} ({loops})"


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
