"""The clean samples of the training, if the run has notes on them."""

from __future__ import annotations

from collections.abc import Iterator

from diffc.report.blocks import Notes
from diffc.report.model import Report
from diffc.report.sections import Section


def _build(report: Report) -> Iterator[Notes]:
    data = report.data
    if data and data.get("notes"):
        yield Notes([f"clean samples: {data['origin']}", *map(str, data["notes"])])


SECTION = Section("Data", 90, _build)
