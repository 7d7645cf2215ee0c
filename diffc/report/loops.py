"""The sampling loop in words: which one was timed, which one was judged, and whether it is one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffc.judged import with_loops
from diffc.measure.quality import metrics_of
from diffc.measure.results import TargetResult
from diffc.report.model import Report
from diffc_runtime.json_types import JsonObject
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
    """'one image (20 steps, DDIM, guidance 7, decoded)', or '4 images at once (...)'."""
    count = "one image" if result.batch == 1 else f"{result.batch} images at once"
    loop = loop_words(result.details)
    return f"{count} ({loop})" if loop else count


def judged_loop(report: Report) -> JsonObject | None:
    """The loop of the samples: the first figure that could be computed; all are of the same."""
    quality = report.quality or {}
    figures = (quality[metric.name] for metric in metrics_of(quality))
    return next((figure for figure in figures if figure), None)


def two_loops(report: Report) -> str:
    """A sentence where times and samples are of different loops; '' where they are of one."""
    judged = judged_loop(report)
    timed = next((r for r in report.pipeline if r.speedup is not None), None)
    if judged is None or timed is None or "steps" not in timed.details:
        return ""
    without_decoding = {key: value for key, value in timed.details.items() if key != "decoded"}
    ours, theirs = loop_words(without_decoding), loop_words(judged)
    if ours == theirs:
        return ""
    return f"times are of {ours}; the samples that were judged are of {theirs}"
