"""The samples' figures of a check, as the run of each side measured them.

Each metric says whether the gate can judge it, which values are better, and by how much the
candidate's may be worse than the baseline's where no option says otherwise. Nothing is measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from diffc.gate.figures import Label
from diffc.gate.limits import CheckLimits
from diffc.gate.result import Figure
from diffc.gate.rule import Verdict
from diffc.gate.subject import CheckedSide
from diffc.judged import with_loops
from diffc.measure.quality import metrics_of
from diffc.measure.quality.base import Metric
from diffc_runtime.json_types import JsonObject

_PLACE = Label("samples", "", None)
_ROUNDING = 1e-9
"""0.9 - 0.02 is no double: a value at its limit is within it."""


@dataclass(frozen=True)
class _Allowed:
    """What one metric is held to.

    Attributes:
        metric: The metric.
        worst: The worst value that is allowed; None: any.
        worse: By how much it may be worse than the baseline's; None: by any amount.
    """

    metric: Metric
    worst: float | None
    worse: float | None

    @property
    def words(self) -> str | None:
        """'>= 0.85, -0.02'; None without a limit."""
        higher = self.metric.better == "higher"
        parts = [] if self.worst is None else [f"{'>=' if higher else '<='} {self.worst:g}"]
        parts += [] if self.worse is None else [f"{'-' if higher else '+'}{self.worse:g}"]
        return ", ".join(parts) or None

    def beside(self, before: float) -> float | None:
        """The worst value that is allowed beside the baseline's."""
        if self.worse is None:
            return None
        margin = self.worse + _ROUNDING
        return before - margin if self.metric.better == "higher" else before + margin


def quality_figures(
    candidate: CheckedSide, baseline: CheckedSide, limits: CheckLimits
) -> list[Figure]:
    """The figures of both sides' samples, those with a limit judged."""
    ours, theirs = candidate.quality or {}, baseline.quality or {}
    figures = []
    for metric in metrics_of({**theirs, **ours, **limits.quality}):
        worse = limits.worse.get(metric.name, metric.most_worse)
        allowed = _Allowed(metric, limits.quality.get(metric.name), worse)
        figure, before = ours.get(metric.name) or {}, theirs.get(metric.name) or {}
        if metric.value(figure) is None:
            figures += _missing(allowed, candidate, metric.value(before))
        elif allowed.words is not None or metric.in_every_check:
            figures.append(_compare(allowed, figure, before))
    return figures


def _missing(allowed: _Allowed, candidate: CheckedSide, before: float | None) -> list[Figure]:
    """A figure that the candidate lacks, where it should be judged."""
    name, words = allowed.metric.label, allowed.words
    if allowed.worst is not None:
        note = f"{candidate.path} has no samples compared"
        return [_PLACE.figure(name, "inconclusive", limit=words, note=note)]
    if before is None or allowed.worse is None:
        return []
    if candidate.kind == "engine":
        note = "an engine alone has no samples"
        return [_PLACE.figure(name, "absent", baseline=before, note=note)]
    note = f"the baseline has it, {candidate.path} does not"
    return [_PLACE.figure(name, "inconclusive", baseline=before, limit=words, note=note)]


def _compare(allowed: _Allowed, figure: JsonObject, before: JsonObject) -> Figure:
    """One figure against its limits and beside the baseline's; reported without a limit."""
    metric, there = allowed.metric, allowed.metric.value(before)
    differ = _difference_note(metric, figure, before)
    return _PLACE.figure(
        metric.title(figure),
        _verdict(allowed, metric.value(figure), None if differ else there, bool(differ)),
        unit=metric.unit,
        candidate=metric.value(figure),
        baseline=there,
        limit=allowed.words,
        note=differ or ("" if there is not None else _no_baseline(allowed)),
    )


def _verdict(allowed: _Allowed, value: float | None, before: float | None, differ: bool) -> Verdict:
    """The verdict on one value.

    Args:
        before: The baseline's; None where there is none, or it is of other samples.
        differ: True where it is of other samples.
    """
    assert value is not None
    beside = None if before is None else allowed.beside(before)
    ends = [end for end in (allowed.worst, beside) if end is not None]
    if not all(allowed.metric.is_within(value, end) for end in ends):
        return "regressed"
    if ends:
        return "pass"
    return "inconclusive" if differ and allowed.worse is not None else "reported"


def _no_baseline(allowed: _Allowed) -> str:
    return "" if allowed.worse is None else "the baseline has none to compare with"


def _difference_note(metric: Metric, ours: JsonObject, theirs: JsonObject) -> str:
    """The settings in which two figures' samples differ, in words; '' where they do not."""
    if metric.value(theirs) is None:
        return ""
    ours, theirs = with_loops(ours), with_loops(theirs)
    differ = [key for key in metric.depends_on if ours.get(key) != theirs.get(key)]
    words = (
        f"{key.replace('_', ' ')} {theirs.get(key)} before, {ours.get(key)} now" for key in differ
    )
    return f"not of the same samples: {'; '.join(words)}" if differ else ""
