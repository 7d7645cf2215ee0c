"""How long each stage took, and its memory."""

from __future__ import annotations

from collections.abc import Iterator

from diffc.report.blocks import Bar, Details, Notes, Table
from diffc.report.model import Report
from diffc.report.sections import Section
from diffc.report.units import seconds, size


def _build(report: Report) -> Iterator[Notes | Details]:
    if not report.stages:
        return
    most = max(stage.seconds for stage in report.stages) or 1.0
    rows = [
        (
            stage.name,
            seconds(stage.seconds),
            size(stage.peak_rss_bytes),
            "reused" if stage.cached else "",
        )
        for stage in report.stages
    ]
    bars = [Bar(s.seconds / most, compressed=not s.cached) for s in report.stages]
    table = Table(rows, ("stage", "time", "peak memory", ""), bars=bars)
    yield Notes([_summary(report)])
    yield Details(f"{len(rows)} stages", [table], unfolded=True)


def _summary(report: Report) -> str:
    """'2 min 35 s of work in 15 stages, 3 reused'."""
    reused = sum(stage.cached for stage in report.stages)
    took = sum(stage.seconds for stage in report.stages if not stage.cached)
    words = f"{seconds(took)} of work in {len(report.stages) - reused} stages"
    return words + (f", {reused} reused" if reused else "")


SECTION = Section("Stages", 130, _build)
