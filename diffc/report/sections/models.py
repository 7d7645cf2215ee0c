"""The sizes of both models, and the notes of the run."""

from __future__ import annotations

from collections.abc import Iterator

from diffc.report.blocks import Notes, Part, Table
from diffc.report.model import ModelFigures, Report
from diffc.report.sections import Section
from diffc.report.units import change, count, size

_SHOWN = 3


def _build(report: Report) -> Iterator[Part]:
    dense, small = report.model, report.compressed
    figures = (
        ("parameters", dense.params, small.params if small else None),
        ("MACs per step", dense.macs, small.macs if small else None),
    )
    rows = [
        (what, count(before), "-" if after is None else count(after), change(before, after))
        for what, before, after in figures
    ]
    if dense.bytes is not None:
        smaller = change(dense.bytes, small.bytes if small else None)
        rows.append(("weights on disk", _on_disk(dense), _on_disk(small), smaller))
    yield Part(f"{dense.name} ({dense.class_name})", [Table(rows), Notes(_notes(report))])


def _on_disk(model: ModelFigures | None) -> str:
    """'8.89 MB fp16': an engine of the same weights can have another precision."""
    if model is None or model.bytes is None:
        return "-"
    return f"{size(model.bytes)} {model.dtype}" if model.dtype else size(model.bytes)


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
