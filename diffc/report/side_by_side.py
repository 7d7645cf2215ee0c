"""The tables of ``diffc bench A B ...``: one for each batch size, and notes on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from diffc.measure.results import Comparison, Row
from diffc.report.speed import factor_interval, noise_words
from diffc.report.tables import Column, print_table, print_whole
from diffc.report.units import factor, milliseconds, size

if TYPE_CHECKING:
    from rich.console import Console

HEADS = ("p50", "p99", "first", "peak", "as fast", "95 %")
UNSURE = " ?"
"""The mark behind a ratio whose interval holds 1."""


def show(result: Comparison, console: Console) -> None:
    """Print a comparison: a table of figures for each batch size, and the notes below them.

    Args:
        result: The measured engines.
        console: The place to print to.
    """
    for batch in dict.fromkeys(row.batch for row in result.rows):
        rows = [(row.label, *cells(row)) for row in result.rows if row.batch == batch]
        columns = [Column(text=True), *(Column(head) for head in HEADS)]
        console.print()
        print_table(console, columns, rows, title=f"batch {batch}, one call of the network")
    for note in notes(result):
        print_whole(console, f"  {note}", style="dim")


def cells(row: Row) -> Sequence[str]:
    """The figures of one line, in the order of ``HEADS``."""
    figures = row.figures
    if figures.latency_ms is None:
        return ("-",) * len(HEADS)
    ratio = row.speedup
    return (
        milliseconds(figures.latency_ms.p50),
        milliseconds(figures.latency_ms.p99),
        milliseconds(figures.first_call_ms),
        size(figures.memory.peak_bytes),
        "1" if ratio is None else factor(ratio.median) + ("" if ratio.is_shown else UNSURE),
        "" if ratio is None else factor_interval(ratio),
    )


def notes(result: Comparison) -> Iterator[str]:
    """Reasons for missing figures, the machine's noise, and how the figures were measured."""
    absent = {row.label: row.figures.absent for row in result.rows if row.figures.absent}
    for label, reason in absent.items():
        yield f"{label}: not measured: {reason}"
    for row in result.rows:
        if row.fault:
            yield f"{row.label}, batch {row.batch}: {row.fault}: how fast it is means nothing"
    for batch, noise in result.noise.items():
        yield f"batch {batch}: {noise_words(noise)}"
    if any(row.speedup for row in result.rows):
        yield "measured in turn in one process; as fast: median of paired ratios, over the first"
        yield "95 %: within this run; another run on another day may differ by more"
    if any(row.speedup is not None and not row.speedup.is_shown for row in result.rows):
        yield "?: the interval holds 1, so no difference is shown"
    if result.cores:
        yield f"on cores {', '.join(map(str, result.cores))}"
    yield f"percentiles: {result.percentile_rule}"
