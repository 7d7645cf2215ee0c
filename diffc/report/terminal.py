"""The report in a terminal, of 80 columns or fewer: see tables.py for what happens then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffc.report.lines import Section, headline, sections
from diffc.report.model import Report
from diffc.report.tables import WIDEST, Column, print_table, print_whole
from diffc.report.units import seconds

if TYPE_CHECKING:
    from rich.console import Console


def show(report: Report, console: Console) -> None:
    """Print the report's tables to ``console``."""
    for section in sections(report):
        console.print()
        print_table(console, _columns(section), section.rows, title=section.title, widest=WIDEST)
        for note in section.notes:
            print_whole(console, f"  {note}", style="dim")
    console.print()
    print_whole(console, headline(report), style="bold")
    reused = [stage for stage in report.stages if stage.cached]
    took = sum(stage.seconds for stage in report.stages if not stage.cached)
    note = f"{seconds(took)} of work in {len(report.stages) - len(reused)} stages"
    print_whole(console, note + (f", {len(reused)} reused" if reused else ""), style="dim")


def _columns(section: Section) -> list[Column]:
    first, second, last = section.heads
    return [Column(text=True), Column(first, least=10), Column(second, least=10),
            Column(last, least=19)]  # fmt: skip
