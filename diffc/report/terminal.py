"""The report in a terminal, of 80 columns or fewer: see tables.py for narrower ones.

Details, images, and charts without a plot in characters do not fit there. The titles of parts that
have nothing else stand in one line below the tables, so that nobody takes the terminal's report for
the whole. The verdict is the first line, and the summary the last, which stays in sight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from diffc.report.blocks import Block, Chart, Code, Details, Facts, Notes, Part, Table
from diffc.report.model import Report
from diffc.report.plot import Plot, draw
from diffc.report.sections import parts
from diffc.report.tables import WIDEST, Column, print_table, print_whole

if TYPE_CHECKING:
    from rich.console import Console


def show(report: Report, console: Console) -> None:
    """Print the verdict, the report's parts, and the summary below them."""
    summaries, left_out = [], []
    for part in parts(report):
        for block in part.blocks:
            if isinstance(block, Facts):
                _show_facts(block, console)
                summaries.append(block.summary or block.sentence)
        blocks = [block for block in part.blocks if _fits(block)]
        if blocks:
            show_part(part.title, blocks, console)
        elif any(isinstance(block, Chart | Details) for block in part.blocks):
            left_out.append(_lower_first(part))
    console.print()
    if left_out:
        print_whole(console, f"report.html has more: {'; '.join(left_out)}", style="dim")
    for sentence in summaries:
        print_whole(console, sentence, style="bold")


def _show_facts(facts: Facts, console: Console) -> None:
    """The verdict, and what to do about it; the figures stand in the parts below."""
    console.print()
    print_whole(console, facts.sentence, style="bold")
    for sentence in facts.notes:
        print_whole(console, f"  {sentence}", style="dim")


def show_part(title: str, blocks: Sequence[Block], console: Console) -> None:
    """Print blocks under their title."""
    console.print()
    print_whole(console, title, style="bold")
    show_blocks(blocks, console)


def show_blocks(blocks: Sequence[Block], console: Console) -> None:
    """Print tables, notes and code; other blocks do not fit here."""
    heads: Sequence[str] = ()
    for block in blocks:
        if isinstance(block, Table):
            # tables below each other share their heads where those are the same
            print_table(console, _columns(block, heads), block.rows, widest=WIDEST)
            heads = block.heads
        elif isinstance(block, Notes):
            for sentence in block.sentences:
                print_whole(console, f"  {sentence}", style="dim")
        elif isinstance(block, Code):
            for line in block.text.splitlines():
                print_whole(console, f"  {line}")
        elif isinstance(block, Chart) and block.plot is not None:
            _show_plot(block.plot, console)


def _fits(block: Block) -> bool:
    """Whether a terminal shows the block."""
    if isinstance(block, Chart):
        return block.plot is not None
    return isinstance(block, Table | Notes | Code)


def _show_plot(plot: Plot, console: Console) -> None:
    from rich.text import Text

    drawn = draw(plot, min(console.width, WIDEST))
    for line in drawn:
        console.print(Text(line), soft_wrap=True)
    if drawn:
        print_whole(console, f"  {plot.key}", style="dim")


def _columns(table: Table, heads_above: Sequence[str]) -> list[Column]:
    """The table's columns, without heads that stand above already."""
    heads = table.heads if list(table.heads) != list(heads_above) else [""] * len(table.heads)
    columns = [Column(head, text=True) for head in heads[: table.texts]]
    figures = heads[table.texts :]
    wide = 2 if len(figures) == 3 else None  # a change, or words on it
    return columns + [Column(head, least=19 if i == wide else 10) for i, head in enumerate(figures)]


def _lower_first(part: Part) -> str:
    return part.title[:1].lower() + part.title[1:]
