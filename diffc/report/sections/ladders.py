"""Where the speed-up comes from: the ladder from PyTorch to the compressed engine, per target."""

from __future__ import annotations

from collections.abc import Iterator

from diffc.measure.explain import Ladder, Rung
from diffc.measure.results import Speedup
from diffc.report import speed, svg
from diffc.report.blocks import Chart, Details, Notes, Part, Table
from diffc.report.model import Report
from diffc.report.sections import Section
from diffc.report.units import interval, milliseconds

_LABEL = (
    "the time of one call, change by change; each bar lies in the outline of the one before; the "
    "numbers are in the table"
)
_HOW = "all timed in turn in one process; factors are medians of paired ratios, with 95 % intervals"


def _build(report: Report) -> Iterator[Part]:
    for ladder in report.ladders:
        place = f"{ladder.target}, {ladder.precision}, batch {ladder.batch}"
        how = Details("How it was measured", [Notes([_HOW])])
        blocks = [*_figures(ladder), Notes(list(_notes(ladder))), how]
        yield Part(f"Where the speed-up comes from: {place}", blocks)


def _figures(ladder: Ladder) -> Iterator[Table | Chart]:
    """The table and the chart of the rungs that were timed."""
    timed = [(rung, rung.latency_ms) for rung in ladder.rungs if rung.latency_ms is not None]
    if not timed:
        return
    bars = [
        (speed.label(ladder, rung), time.p50, f"{milliseconds(time.p50)}  {_by(rung)}".strip())
        for rung, time in timed
    ]
    numbers = [
        (
            speed.label(ladder, rung),
            rung.cause or "-",
            milliseconds(time.p50),
            _factor(rung.over_previous) or "-",
            _factor(rung.over_first) or "-",
        )
        for rung, time in timed
    ]
    rows = [
        (
            speed.label(ladder, rung),
            milliseconds(time.p50),
            _by(rung),
            _factor(rung.over_first),
        )
        for rung, time in timed
    ]
    yield Table(rows, ("", "p50", "by", "in all"))
    heads = ("", "changed", "p50", "by", "in all")
    yield Chart(svg.steps(bars, "milliseconds, p50", _LABEL), Table(numbers, heads, texts=2))


def _by(rung: Rung) -> str:
    """'1.67x pruning': the factor of this rung's change."""
    factor = rung.over_previous
    return "" if factor is None else f"{factor.median:.2f}x {rung.cause}"


def _factor(factor: Speedup | None) -> str:
    """'4.20x [4.11, 4.32]'."""
    return "" if factor is None else f"{factor.median:.2f}x {interval(factor.ci95)}"


def _notes(ladder: Ladder) -> Iterator[str]:
    busy = speed.busy_note(ladder)
    if busy is not None:
        yield busy
    if ladder.noise is not None:
        yield speed.noise_words(ladder.noise)
    for rung in ladder.rungs:
        if rung.absent:
            yield f"{rung.label}: not measured: {rung.absent}"


SECTION = Section("Where the speed-up comes from", 30, _build)
