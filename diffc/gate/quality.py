"""The samples' figures of a check, as the run of each side measured them.

Each metric says whether the gate can judge it, and which values are better. Nothing is measured.
"""

from __future__ import annotations

from collections.abc import Mapping

from diffc.gate.figures import Label
from diffc.gate.result import Figure
from diffc.gate.rule import Verdict
from diffc.gate.subject import CheckedSide
from diffc.measure.quality import in_order, reported_metric
from diffc.measure.quality.base import Metric
from diffc_runtime.json_types import JsonObject

_PLACE = Label("samples", "", None)


def quality_figures(
    candidate: CheckedSide, baseline: CheckedSide, limits: Mapping[str, float]
) -> list[Figure]:
    """The figures of both sides' samples, those with a limit judged.

    Args:
        candidate: The side that is judged.
        baseline: The other side, whose values stand beside the candidate's.
        limits: Metric -> the worst value that is allowed.
    """
    ours, theirs = candidate.quality or {}, baseline.quality or {}
    names = dict.fromkeys([*(name for name in ours if name != "absent"), *limits])
    figures = []
    for metric in in_order(map(reported_metric, names)):
        limit, figure = limits.get(metric.name), ours.get(metric.name) or {}
        if metric.value(figure) is not None:
            if limit is not None or metric.in_every_check:
                before = theirs.get(metric.name) or {}
                figures.append(_compare(metric, figure, before, limit))
        elif limit is not None:
            note = f"{candidate.path} has no samples compared"
            words = _limit_words(metric, limit)
            figures.append(_PLACE.figure(metric.label, "inconclusive", limit=words, note=note))
    return figures


def _compare(metric: Metric, figure: JsonObject, before: JsonObject, limit: float | None) -> Figure:
    """One figure against its limit and beside the baseline's; reported without a limit."""
    value = metric.value(figure)
    verdict: Verdict = "reported"
    assert value is not None
    if limit is not None:
        verdict = "pass" if metric.is_within(value, limit) else "regressed"
    return _PLACE.figure(
        metric.title(figure),
        verdict,
        unit=metric.unit,
        candidate=value,
        baseline=metric.value(before),
        limit=None if limit is None else _limit_words(metric, limit),
        note=_difference_note(metric, figure, before),
    )


def _limit_words(metric: Metric, limit: float) -> str:
    return f"{'>=' if metric.better == 'higher' else '<='} {limit:g}"


def _difference_note(metric: Metric, ours: JsonObject, theirs: JsonObject) -> str:
    """The settings in which two figures' samples differ, in words; '' where they do not."""
    if metric.value(theirs) is None:
        return ""
    differ = [key for key in metric.depends_on if ours.get(key) != theirs.get(key)]
    words = (f"{key} {theirs.get(key)} before, {ours.get(key)} now" for key in differ)
    return f"not of the same samples: {'; '.join(words)}" if differ else ""
