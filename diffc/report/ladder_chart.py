"""The chart of a ladder: what each change did to a time, the first rung being all of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diffc.measure.results import Speedup
from diffc.report import svg
from diffc.report.blocks import Chart, Table
from diffc.report.speed import factor_words
from diffc.report.units import factor


@dataclass(frozen=True)
class ChartRung:
    """One rung as the chart shows it.

    Attributes:
        label: What runs.
        cause: The change from the rung before; empty for the first.
        by: The factor of that change; None for the first.
        in_all: The factor over the first rung; None for the first.
    """

    label: str
    cause: str
    by: Speedup | None
    in_all: Speedup | None

    @property
    def by_words(self) -> str:
        """'1.67x pruning'; '' for the first."""
        return "" if self.by is None else f"{factor(self.by.median)} {self.cause}"


def ladder_chart(rungs: Sequence[ChartRung], what: str, first: str) -> Chart:
    """Return the bars of a ladder, and its numbers as a table.

    Args:
        rungs: From the first on; one at least.
        what: What is timed, such as ``one step``.
        first: What the times are a share of.
    """
    bars = [
        (rung.label, 100 / (rung.in_all.median if rung.in_all else 1), rung.by_words)
        for rung in rungs
    ]
    numbers = [
        (rung.label, rung.cause or "-", *(factor_words(one) for one in (rung.by, rung.in_all)))
        for rung in rungs
    ]
    label = (
        f"the time of {what} as a share of that of {first}, change by change; each bar lies in the "
        "outline of the one before; the numbers are in the table"
    )
    picture = svg.steps(bars, f"time of {what}, % of {first}", label)
    return Chart(picture, Table(numbers, ("", "changed", "by", "in all"), texts=2))
