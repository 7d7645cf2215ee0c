"""The verdict: whether the compressed model is worth having, with its reason, in one sentence.

A report's first line. A figure within the machine's noise is no speed-up, a fast model whose images
are others is no success, and neither is one that fewer steps of the dense model beat.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

from diffc.measure.anchors import Anchors
from diffc.measure.frontier.results import Frontier
from diffc.measure.frontier.standing import own_standing
from diffc.measure.results import TargetResult, at_working
from diffc.report import frontiers, speed
from diffc.report.loops import count_words, image_words
from diffc.report.model import Report
from diffc.report.units import change, count, factor
from diffc_runtime.json_types import JsonObject

Kind: TypeAlias = Literal[
    "ahead", "close", "far", "behind", "unjudged", "no speed-up", "slower", "untimed", "dense"
]
CLOSE = 0.8
"""The SSIM to the dense model's images from which on they are called close."""
_FAR = "distil longer (--distill-steps), or cut less (--ratio)"
_LOOP_FAR = (
    "train longer for the loop (distill.loop.steps in a recipe), serve one step more (--loop), or "
    "cut less (--ratio)"
)
_NOISE = "measure again on a quiet machine, or cut more (--ratio)"
_SLOWER = "another target or precision may run it faster (diffc doctor, --precision auto)"


@dataclass(frozen=True)
class Verdict:
    """One target's verdict.

    Attributes:
        kind: What was found.
        words: The finding and its reason, in one line.
        advice: What to do about it; empty where there is nothing to mend.
    """

    kind: Kind
    words: str
    advice: str = ""


def verdict(report: Report) -> Verdict:
    """The verdict of the report's first target that was timed."""
    return verdicts(report)[0]


def verdicts(report: Report) -> list[Verdict]:
    """One verdict for each target that was timed; one in all where none was."""
    if report.compressed is None:
        words = f"{report.model.name}: {count(report.model.params)} parameters, nothing cut"
        return [Verdict("dense", words)]
    timed = timed_results(report)
    return [_of_target(report, result) for result in timed] or [_untimed(report)]


def timed_results(report: Report) -> list[TargetResult]:
    """Each timed target's whole images; its steps where images were not timed."""
    images = {r.target: r for r in report.pipeline if r.speedup is not None}
    steps = {r.target: r for r in at_working(report.targets)[::-1] if r.speedup is not None}
    targets = dict.fromkeys(r.target for r in (*report.targets, *report.pipeline))
    results = (images.get(target) or steps.get(target) for target in targets)
    return [result for result in results if result is not None]


def what_was_timed(report: Report, result: TargetResult) -> str:
    """'one image', '4 images at once' or 'one step'."""
    if not any(result is one for one in report.pipeline):
        return "one step"
    return count_words(result)


def ssim_of(report: Report) -> JsonObject | None:
    """The SSIM of the samples, as report.json holds it."""
    return (report.quality or {}).get("ssim") or None


def closeness_words(report: Report) -> str:
    """'SSIM 0.937, worst of 32 0.869'; '' where it was not measured."""
    figure = ssim_of(report)
    if figure is None or not _is_number(figure.get("mean")):
        return ""
    words = f"SSIM {figure['mean']:.3f}"
    worst = worst_value(figure)
    return words if worst is None else f"{words}, worst of {figure['n']} {worst:.3f}"


def worst_value(figure: JsonObject) -> float | None:
    """The lowest value of one pair; None in older reports and for a single one."""
    each = [value for value in figure.get("each") or () if _is_number(value)]
    return min(each) if len(each) > 1 else None


def _is_number(value: object) -> bool:
    """False for a figure that is absent, NaN or infinite."""
    return isinstance(value, int | float) and math.isfinite(value)


def _of_target(report: Report, result: TargetResult) -> Verdict:
    speedup = result.speedup
    assert speedup is not None
    place = f"on {result.target} ({result.precision}, {result.shape_words})"
    what = what_was_timed(report, result)
    if not speedup.is_shown:
        figure = speed.with_interval(speedup)
        return Verdict(
            "no speed-up",
            f"NO SPEED-UP SHOWN: {what} {figure} {place}, within the noise",
            _NOISE,
        )
    faster = f"{what} {factor(speedup.median)} as fast {place}"
    close = closeness_words(report)
    if speedup.median < 1:
        words = f"SLOWER THAN DENSE: {faster}"
        return Verdict("slower", f"{words}, {close}" if close else words, _SLOWER)
    if not close:
        return Verdict("unjudged", f"FASTER, IMAGES NOT JUDGED: {faster}")
    return _judged(report, result, f"{faster}, {close}")


def _judged(report: Report, result: TargetResult, reason: str) -> Verdict:
    """Of a target that is faster: ahead, close, far, or behind a dense loop of its time."""
    figure = ssim_of(report)
    assert figure is not None
    frontier = frontier_of(report, result.target)
    is_far = figure["mean"] < CLOSE
    if frontier is not None:
        far = (_LOOP_FAR if report.loop_distillation else _FAR) if is_far else ""
        one = _at_equal_time(frontier, reason, far)
        if one is not None:
            return one
    if is_far:
        return Verdict("far", f"FASTER, BUT FAR FROM DENSE: {reason}", _FAR)
    anchors = next((one for one in report.anchors if one.target == result.target), None)
    if anchors is not None and is_behind(anchors):
        row = anchors.row("same-time")
        assert row is not None
        words = (
            f"BEHIND THE DENSE MODEL WITH FEWER STEPS: {row.steps} dense steps take as long on "
            f"{result.target} and have SSIM {row.ssim.mean:.3f}; {reason}"
        )
        return Verdict("behind", words, _fewer_steps_advice(row.steps))
    return Verdict("close", f"FASTER AND CLOSE TO DENSE: {reason}")


def frontier_of(report: Report, target: str) -> Frontier | None:
    """The loops of both sides on one target; None where they were not measured."""
    return next((one for one in report.frontiers if one.target == target and one.points), None)


def _at_equal_time(frontier: Frontier, reason: str, far: str) -> Verdict | None:
    """Ahead of every dense loop of its time, or behind one; None where neither is shown.

    Args:
        frontier: The loops of both sides.
        reason: The figures of the served loop, in words.
        far: What to do about images that are far from the reference loop's; empty if they are not.
    """
    own, words = own_standing(frontier), frontiers.verdict_words(frontier)
    if own is None or not words:
        return None
    if own.kind == "behind":
        assert own.rival is not None
        theirs = f"dense {own.rival.loop} takes as long on {frontier.target}"
        return Verdict(
            "behind", f"BEHIND THE DENSE MODEL AT EQUAL TIME: {theirs}; {reason}",
            frontiers.advice(frontier),
        )  # fmt: skip
    if own.kind not in ("ahead", "alone"):
        return None
    if far:
        words = "AHEAD OF THE DENSE MODEL AT EQUAL TIME, BUT FAR FROM ITS REFERENCE LOOP"
        return Verdict("ahead", f"{words}: {reason}", far)
    return Verdict("ahead", f"AHEAD OF THE DENSE MODEL AT EQUAL TIME: {reason}")


def _fewer_steps_advice(steps: int) -> str:
    return f"the dense model with {steps} steps is better here; cutting pays where few are left"


def is_behind(anchors: Anchors) -> bool:
    """True where fewer dense steps are closer, by more than the choice of images explains."""
    ahead = anchors.ahead
    return ahead is not None and ahead.ci95 is not None and ahead.ci95[1] < 0


def _untimed(report: Report) -> Verdict:
    small = report.compressed
    assert small is not None
    parts = [f"{change(report.model.macs, small.macs)} MACs"]
    parts += [words for words in [closeness_words(report)] if words]
    absent = next((r.absent for r in report.targets if r.absent), None)
    reason = f" ({absent})" if absent else ""
    return Verdict("untimed", f"COMPRESSED, NOT TIMED{reason}: {', '.join(parts)}")


def summary(report: Report) -> str:
    """The last line of a run: how much faster, how close, of which loops."""
    small = report.compressed
    if small is None:
        return f"{report.model.name}: {count(report.model.params)} parameters"
    parts = [f"{change(report.model.macs, small.macs)} MACs"]
    for result in timed_results(report):
        parts.append(_faster(report, result))
    if close := closeness_words(report):
        parts.append(close)
    return f"{report.model.name}: " + "; ".join([", ".join(parts), *_dominated(report)])


def _dominated(report: Report) -> list[str]:
    """What is said of each target whose loop a dense one beats, and what to do."""
    words = ((one.target, frontiers.dominated_words(one)) for one in report.frontiers)
    return [f"on {target} {sentence}" for target, sentence in words if sentence]


def _faster(report: Report, result: TargetResult) -> str:
    assert result.speedup is not None
    is_image = any(result is one for one in report.pipeline)
    what = image_words(result) if is_image else "one step"
    place = f"on {result.target} ({result.precision}, {result.shape_words})"
    if not result.speedup.is_shown:
        return f"{what} {place}: {speed.NOT_SHOWN}: {speed.with_interval(result.speedup)}"
    return f"{what} {factor(result.speedup.median)} as fast {place}"
