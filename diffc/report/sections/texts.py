"""The text encoders: which are engines, their precision, and how close they are to torch."""

from __future__ import annotations

from collections.abc import Iterator

from diffc.report.blocks import Notes, Table
from diffc.report.model import Report
from diffc.report.sections import Section
from diffc.report.units import count, size

_HEADS = ("", "parameters", "engine", "precision", "size", "error to torch")


def _build(report: Report) -> Iterator[Notes | Table]:
    if report.texts is None:
        return
    rows = []
    for encoder in report.texts.encoders:
        params = "" if encoder.params is None else count(encoder.params)
        rows += [
            (
                encoder.name,
                params,
                engine.target,
                engine.precision or "",
                "" if engine.bytes is None else size(engine.bytes),
                "not measured" if engine.error is None else f"{engine.error:.1e}",
            )
            for engine in encoder.engines
        ] or [(encoder.name, params, "none", "", "", "")]
    yield Table(rows, _HEADS)
    notes = list(report.texts.notes)
    for encoder in report.texts.encoders:
        notes += [f"{encoder.name}: {note}" for e in encoder.engines for note in e.notes]
    yield Notes(notes)


SECTION = Section("Text encoders", 95, _build)
