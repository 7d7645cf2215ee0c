"""The command that made the run."""

from __future__ import annotations

from collections.abc import Iterator

from diffc.report.blocks import Code
from diffc.report.model import Report
from diffc.report.sections import Section


def _build(report: Report) -> Iterator[Code]:
    if report.command is not None:
        yield Code(report.command)


SECTION = Section("Reproduce", 150, _build)
