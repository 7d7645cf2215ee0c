"""The report in a terminal of 80 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffc.report.lines import Section, headline, sections
from diffc.report.model import Report
from diffc.report.units import seconds

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 80


def show(report: Report, console: Console) -> None:
    """Print the report's tables to ``console``."""
    from rich.text import Text

    for section in sections(report):
        console.print()
        console.print(_table(section))
        for note in section.notes:
            console.print(Text(f"  {note}", style="dim"))
    console.print()
    console.print(Text(headline(report), style="bold"))
    reused = [stage for stage in report.stages if stage.cached]
    took = sum(stage.seconds for stage in report.stages if not stage.cached)
    note = f"{seconds(took)} of work in {len(report.stages) - len(reused)} stages"
    console.print(Text(note + (f", {len(reused)} reused" if reused else ""), style="dim"))


def _table(section: Section) -> object:
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(section.title), title_justify="left", title_style="bold", box=None,
        pad_edge=False, width=WIDTH,
    )  # fmt: skip
    table.add_column("", ratio=1, no_wrap=True)
    *middle, last = section.heads
    for heading in middle:
        table.add_column(heading, justify="right", no_wrap=True, min_width=10)
    table.add_column(last, justify="right", no_wrap=True, min_width=19)
    for row in section.rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
