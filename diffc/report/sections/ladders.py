"""Where the speed-up comes from: the ladder from PyTorch to the compressed engine, per target."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from diffc.measure.results import PRUNING, Ladder, Rung, Speedup, at_working
from diffc.report import speed
from diffc.report.blocks import Chart, Details, Notes, Part, Table
from diffc.report.ladder_chart import ChartRung, ladder_chart
from diffc.report.model import Report
from diffc.report.sections import Section

_HOW = (
    "all timed in turn in one process; factors are medians of paired ratios, with 95 % intervals "
    "within this run"
)
_OF_STEPS = (
    "what pruning gives is the speed-up of one step that is reported above, not timed again; "
    "'in all' is its product with the factors before it"
)


def _build(report: Report) -> Iterator[Part]:
    for ladder in report.ladders:
        place = f"{ladder.target}, {ladder.precision}, batch {ladder.batch}"
        measured = _step_speedup(report, ladder)
        rows = _factors(ladder, measured)
        how = Details("How it was measured", [Notes([_HOW, *([_OF_STEPS] if measured else [])])])
        blocks = [*_figures(ladder, rows), Notes(list(_notes(ladder))), how]
        yield Part(f"Where the speed-up comes from: {place}", blocks)


def _step_speedup(report: Report, ladder: Ladder) -> Speedup | None:
    """The speed-up of one step with the ladder's last two engines, as its own section has it."""
    wanted = (ladder.target, ladder.precision, ladder.batch)
    for result in at_working(report.targets):
        if (result.target, result.precision, result.batch) == wanted:
            return result.speedup
    return None


@dataclass(frozen=True)
class _Factors:
    """One rung's factor over the rung before and over the first; None for the first."""

    rung: Rung
    by: Speedup | None
    in_all: Speedup | None


def _factors(ladder: Ladder, measured: Speedup | None) -> list[_Factors]:
    """The rungs that were timed.

    One report has one figure for one thing: what pruning gives was timed longer for the section of
    one step, and is taken from there.
    """
    timed = [rung for rung in ladder.rungs if rung.latency_ms is not None]
    rows = [_Factors(rung, rung.over_previous, rung.over_first) for rung in timed]
    if measured is None or len(rows) < 2 or rows[-1].rung.cause != PRUNING:
        return rows
    before = rows[-2].in_all
    in_all = measured if before is None else speed.product(before, measured)
    return [*rows[:-1], _Factors(timed[-1], measured, in_all)]


def _figures(ladder: Ladder, factors: Sequence[_Factors]) -> Iterator[Table | Chart]:
    """The table and the chart of the rungs that were timed."""
    if not factors:
        return
    shown = [
        ChartRung(speed.label(ladder, row.rung), row.rung.cause, row.by, row.in_all)
        for row in factors
    ]
    rows = [
        (one.label, one.by_words, speed.factor_words(one.in_all) if one.in_all else "1x")
        for one in shown
    ]
    yield Table(rows, ("", "by", "in all"))
    yield ladder_chart(shown, "one step", factors[0].rung.label)


def _notes(ladder: Ladder) -> Iterator[str]:
    busy = speed.busy_note(ladder)
    if busy is not None:
        yield busy
    if ladder.noise is not None:
        yield speed.noise_words(ladder.noise)
    for rung in ladder.rungs:
        if rung.absent:
            yield f"{rung.label}: not measured: {rung.absent}"


SECTION = Section("Where the speed-up comes from", 50, _build)
