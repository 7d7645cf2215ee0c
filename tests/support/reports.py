"""What a report's parts hold, for tests of what a report shows."""

from __future__ import annotations

from diffc.report.blocks import Details, Notes, Part, Table
from diffc.report.model import Report
from diffc.report.sections import parts


def find_part(report: Report, title: str) -> Part:
    """The first part whose title begins so."""
    return next(part for part in parts(report) if part.title.startswith(title))


def rows_of(part: Part) -> list[tuple[str, ...]]:
    """The rows of all the part's tables that every rendering shows."""
    tables = [block for block in part.blocks if isinstance(block, Table)]
    return [tuple(row) for table in tables for row in table.rows]


def notes_of(part: Part) -> list[str]:
    """The part's sentences."""
    notes = [block for block in part.blocks if isinstance(block, Notes)]
    return [sentence for block in notes for sentence in block.sentences]


def summaries_of(part: Part) -> list[str]:
    """What stands on the part's folds."""
    return [block.summary for block in part.blocks if isinstance(block, Details)]
