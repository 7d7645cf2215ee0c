"""Is the served loop ahead of the dense model at its own time? What the candidate's run measured.

A cut model that a dense loop of the same time beats is worth nothing to those who wait for an
image. Nothing is measured here.
"""

from __future__ import annotations

from diffc.gate.figures import Label
from diffc.gate.result import Figure
from diffc.gate.rule import Verdict
from diffc.gate.subject import CheckedSide
from diffc.measure.frontier.results import Frontier
from diffc.measure.frontier.standing import Standing, main_metric, own_standing
from diffc.report.frontiers import standing_words

NAME = "against dense at equal time"
_VERDICTS: dict[str, Verdict] = {
    "ahead": "pass",
    "alone": "pass",  # no dense loop is as fast
    "level": "pass",  # no dense loop is shown to be better
    "behind": "regressed",
    "unknown": "inconclusive",
}


def ahead_figures(candidate: CheckedSide) -> list[Figure]:
    """One figure for each target's frontier; an inconclusive one where none was measured."""
    if not candidate.frontiers:
        note = f"{candidate.path} has no frontier (diffc bench OUT measures it)"
        return [Label("frontier", "", None).figure(NAME, "inconclusive", note=note)]
    return [_figure(frontier) for frontier in candidate.frontiers]


def _figure(frontier: Frontier) -> Figure:
    label = Label(frontier.target, frontier.precision, frontier.batch)
    own = own_standing(frontier)
    if own is None or own.kind == "unknown":
        reason = frontier.absent or "the served loop has no time or no figure beside dense loops"
        return label.figure(NAME, "inconclusive", note=reason)
    return label.figure(
        NAME,
        _VERDICTS[own.kind],
        limit="not behind",
        note=standing_words(frontier, own),
        **_values(frontier, own),
    )


def _values(frontier: Frontier, own: Standing) -> dict[str, object]:
    """The two figures that were compared: the dense rival's stands as the baseline's."""
    metric = main_metric(frontier)
    if metric is None or own.rival is None:
        return {}
    points = {"candidate": own.own, "baseline": own.rival}
    figures = {name: point.figures.get(metric.name) for name, point in points.items()}
    values = {name: one.value for name, one in figures.items() if one is not None}
    return {**values, "unit": metric.unit}
