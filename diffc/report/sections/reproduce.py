"""The commands that made the run, and how every option of it can be given back."""

from __future__ import annotations

from collections.abc import Iterator

from diffc.output import LOCK
from diffc.report.blocks import Code, Notes
from diffc.report.model import Report
from diffc.report.sections import Section


def _build(report: Report) -> Iterator[Code | Notes]:
    commands = [line for line in (report.command, *report.then) if line is not None]
    if commands:
        yield Code("\n".join(commands))
        yield Notes([f"--recipe OUT/{LOCK} gives back every option as it was resolved"])


SECTION = Section("Reproduce", 150, _build)
