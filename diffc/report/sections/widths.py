"""Channels of every layer before and after."""

from __future__ import annotations

from collections.abc import Iterator

from diffc.report.blocks import Bar, Details, Notes, Table
from diffc.report.model import Report
from diffc.report.sections import Section
from diffc.report.units import percent

_WORDS = (
    "bars are shares of the widest layer: the outline is the dense width, the filled part is kept"
)


def _build(report: Report) -> Iterator[Details]:
    groups = report.plan.get("groups") if report.plan else None
    if not groups:
        return
    most = max(group["size"] for group in groups)
    rows = [
        (
            str(group["name"]),
            str(group["size"]),
            str(group["kept"]),
            percent(group["kept"] / group["size"]),
        )
        for group in groups
    ]
    bars = [Bar(group["kept"] / most, group["size"] / most) for group in groups]
    table = Table(rows, ("layer", "dense", "kept", "share"), bars=bars)
    yield Details(f"{len(rows)} layers", [Notes([_WORDS]), table], unfolded=True)


SECTION = Section("Widths, layer by layer", 100, _build)
