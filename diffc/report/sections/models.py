"""The sizes of both models, and the notes of the run."""

from __future__ import annotations

from collections.abc import Iterator

from diffc.report.blocks import Notes, Part, Table
from diffc.report.model import Report
from diffc.report.sections import Section
from diffc.report.units import change, count, size

_SHOWN = 3


def _build(report: Report) -> Iterator[Part]:
    dense, small = report.model, report.compressed
    figures = (
        ("parameters", dense.params, small.params if small else None, count),
        ("MACs per step", dense.macs, small.macs if small else None, count),
        ("weights on disk", dense.bytes, small.bytes if small else None, size),
    )
    rows = [
        (what, show(before), "-" if after is None else show(after), change(before, after))
        for what, before, after, show in figures
        if before is not None
    ]
    yield Part(f"{dense.name} ({dense.class_name})", [Table(rows), Notes(_notes(report))])


def _notes(report: Report) -> list[str]:
    """The notes of the run, and of each LoRA what the compressed model has no place for."""
    notes = list(report.notes)
    for lora in report.loras:
        if lora.left_out:
            count = len(lora.left_out)
            notes.append(
                f"of {lora.name}, {count} layers are left out of the compressed model, which does "
                f"not have them: {', '.join(lora.left_out[:_SHOWN])}"
                + (f" and {count - _SHOWN} more" if count > _SHOWN else "")
            )
    return notes


SECTION = Section("Models", 30, _build)
