"""The sampling loops in words: those that were timed, and those of the judged samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffc.judged import with_loops
from diffc.measure.quality import metrics_of
from diffc.measure.results import TargetResult
from diffc.report.model import Report
from diffc_runtime.json_types import JsonObject
from diffc_runtime.loop import Loop
from diffc_runtime.schedulers import own_name, sampler_words


def loop_words(details: Mapping[str, Any]) -> str:
    """The loop's steps, sampler, guidance and decoding, in words; '' where they are not known."""
    steps = details.get("steps")
    parts = [f"{steps} step{'' if steps == 1 else 's'}"] if steps is not None else []
    name = with_loops(details).get("sampler")
    if name is None and details.get("scheduler"):  # of an older diffc
        name = own_name({"_class_name": details["scheduler"]})
    parts += [sampler_words(str(name or ""))]
    if details.get("guidance", 1) != 1:
        parts.append(f"guidance {details['guidance']:g}")
    if details.get("decoded") is not None:
        parts.append("decoded" if details["decoded"] else "without decoding")
    return ", ".join(part for part in parts if part)


def image_words(result: TargetResult) -> str:
    """'one image (20 steps, DDIM, guidance 7, decoded)', or '4 images at once (...)'.

    Where the two sides have different loops, 'one image: dense (50 steps, DDIM), compressed (8
    steps, DPM-Solver++)'.
    """
    count, loop = count_words(result), loop_words(result.details)
    dense = dense_loop(result.details)
    if dense != loop:
        return f"{count}: dense ({dense}), compressed ({loop})"
    return f"{count} ({loop})" if loop else count


def count_words(result: TargetResult) -> str:
    """'one image' or '4 images at once'."""
    return "one image" if result.batch == 1 else f"{result.batch} images at once"


def dense_loop(details: Mapping[str, Any]) -> str:
    """The dense model's loop of timed images, in words."""
    reference = details.get("reference") or {}
    return loop_words({**details, **reference})


def both_loops(figure: JsonObject) -> str:
    """The loops of judged samples: one, or that of the dense model after the compressed one's."""
    figure = with_loops(figure)
    ours, reference = loop_words(figure), figure.get("reference_loop")
    if reference is None or reference == figure.get("loop"):
        return ours
    dense = Loop.parse(str(reference))
    theirs = {"steps": dense.steps, "sampler": dense.sampler, "guidance": dense.guidance or 1}
    return f"{ours}; dense {loop_words(theirs)}"


def judged_loop(report: Report) -> JsonObject | None:
    """The loop of the samples: the first figure that could be computed; all are of the same."""
    quality = report.quality or {}
    figures = (quality[metric.name] for metric in metrics_of(quality))
    return next((figure for figure in figures if figure), None)
