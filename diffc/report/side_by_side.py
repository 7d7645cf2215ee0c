"""What ``diffc bench A B ...`` shows: one table per batch size, and what is to be known of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from diffc.measure.results import Comparison, Row
from diffc.report.lines import noise_words
from diffc.report.units import interval, milliseconds, size

if TYPE_CHECKING:
    from rich.console import Console

HEADS = ("p50", "p99", "first", "peak", "as fast", "95 %")


def show(result: Comparison, console: Console) -> None:
    """Print the tables to ``console``."""
    from rich.table import Table
    from rich.text import Text

    for batch in dict.fromkeys(row.batch for row in result.rows):
        table = Table(title=Text(f"batch {batch}"), title_justify="left", title_style="bold",
                      box=None, pad_edge=False, padding=(0, 1, 0, 0))  # fmt: skip
        table.add_column("", overflow="fold")
        for head in HEADS:
            table.add_column(head, justify="right", no_wrap=True)
        for row in result.rows:
            if row.batch == batch:
                table.add_row(Text(row.label), *map(Text, cells(row)))
        console.print()
        console.print(table)
    for note in notes(result):
        console.print(Text(f"  {note}", style="dim"))


def cells(row: Row) -> Sequence[str]:
    """The figures of one line, as ``HEADS`` names them."""
    found = row.figures
    if found.latency_ms is None:
        return ("-",) * len(HEADS)
    ratio = row.speedup
    return (
        milliseconds(found.latency_ms.p50),
        milliseconds(found.latency_ms.p99),
        milliseconds(found.first_call_ms),
        size(found.memory.peak_bytes),
        "1" if ratio is None else f"{ratio.median:.2f}x",
        "" if ratio is None else interval(ratio.ci95),
    )


def notes(result: Comparison) -> Iterator[str]:
    """Why a line has no figures, what the machine was like, and how it was measured."""
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
    if result.cores:
        yield f"on cores {', '.join(map(str, result.cores))}"
    yield f"percentiles: {result.percentile_rule}"
