"""What each block learnt alone: the network's errors, and each block's."""

from __future__ import annotations

from collections.abc import Iterator

from diffc.report.blocks import Details, Notes, Table
from diffc.report.model import Report
from diffc.report.sections import Section

_HEADS = ("", "to the dense model", "to the noise")
_BLOCK_HEADS = ("block", "before", "after", "")


def _build(report: Report) -> Iterator[Notes | Table | Details]:
    record = report.block_local
    if not record or not record.get("samples"):
        return
    kinds = (
        ("dense", record.get("dense")),
        ("before", record.get("before")),
        ("after", record.get("after")),
    )
    rows = [
        (name, f"{errors['to_dense']:.4g}", f"{errors['to_noise']:.4g}")
        for name, errors in kinds
        if errors
    ]
    blocks = record.get("blocks") or []
    nearer, steps = sum(block["is_used"] for block in blocks), record.get("steps")
    words = f"{nearer} of {len(blocks)} blocks came nearer to the dense model's in {steps} steps"
    taken = "" if record.get("is_used") else "; the network did not, and was left as it was"
    yield Notes([f"{words} each{taken}; below, squared errors on samples held out"])
    yield Table(rows, _HEADS)
    yield Notes([*map(str, record.get("notes") or ())])
    each = [
        (
            block["name"],
            *(_error(block[side]) for side in ("before", "after")),
            "" if block["is_used"] else "kept",
        )
        for block in blocks
    ]
    yield Details("relative squared error of each block", [Table(each, _BLOCK_HEADS)])


def _error(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}"


SECTION = Section("Block-local distillation", 116, _build)
