"""report.md: for a pull request or a wiki.

Details and the numbers of charts are folded, as GitHub shows ``<details>``. Images are not here:
what takes the text elsewhere does not take them along.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence

from diffc.report.blocks import Block, Chart, Code, Details, Facts, Notes, Table
from diffc.report.model import Report
from diffc.report.sections import parts

_MOST_NUMBERS = 60
"""Rows of a chart's table above which Markdown gives their number alone."""


def to_markdown(report: Report) -> str:
    """The whole report as GitHub-flavoured Markdown."""
    lines: list[str] = []
    for part in parts(report):
        inside = [line for block in part.blocks for line in _block(block)]
        is_headline = any(isinstance(block, Facts) for block in part.blocks)
        if inside:
            lines += inside if is_headline else [f"## {escape(part.title)}", "", *inside]
    lines.append(f"diffc {report.diffc}, {report.created}")
    return "\n".join(lines) + "\n"


def _block(block: Block) -> Iterator[str]:
    if isinstance(block, Facts):
        yield from (f"# {escape(block.sentence)}", "")
        yield from (f"{escape(sentence)}  " for sentence in block.notes)
        if block.notes:
            yield ""
    elif isinstance(block, Table):
        yield from _table(block)
    elif isinstance(block, Notes):
        yield from (f"{escape(sentence)}  " for sentence in block.sentences)
        yield ""
    elif isinstance(block, Code):
        yield from (f"    {line}" for line in block.text.splitlines())
        yield ""
    elif isinstance(block, Chart) and block.numbers is not None:
        yield from _numbers(block.numbers)
    elif isinstance(block, Details):
        yield from _folded(block.summary, block.blocks)


def _table(table: Table) -> Iterator[str]:
    yield f"| {' | '.join(map(escape, table.heads))} |"
    figures = len(table.heads) - table.texts
    rules = ["---"] * table.texts + ["---:"] * figures
    if figures == 3:
        rules[-1] = "---"  # a change, or words on it
    yield f"|{'|'.join(rules)}|"
    yield from (f"| {' | '.join(map(escape, row))} |" for row in table.rows)
    yield ""


def _numbers(table: Table) -> Iterator[str]:
    """A chart's numbers, folded; of many only their count."""
    if len(table.rows) <= _MOST_NUMBERS:
        yield from _folded("The numbers", [table])
    else:
        names = " and ".join(head for head in table.heads if head)
        yield f"{len(table.rows)} rows of {escape(names)}: in report.html and report.json"
        yield ""


def _folded(summary: str, blocks: Sequence[Block]) -> Iterator[str]:
    yield from (f"<details><summary>{html.escape(summary)}</summary>", "")
    for block in blocks:
        yield from _block(block)
    yield from ("</details>", "")


def code_span(text: str) -> str:
    """Text as a code span, in which every sign but the backtick stands for itself."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence, room = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{room}{text}{room}{fence}".replace("\n", " ")


def escape(text: str) -> str:
    """Text from the user's side as literal Markdown inside a table."""
    for sign in "\\`*_[]<>|#":
        text = text.replace(sign, f"\\{sign}")
    return text.replace("\n", " ")
