"""What each block learnt alone: the network's errors, and each block's."""

from __future__ import annotations

from collections.abc import Iterator

from diffc.report.blocks import Details, Notes, Table
from diffc.report.model import Report
from diffc.report.network_errors import error_table
from diffc.report.sections import Section

_NETWORKS = {"dense": "dense", "before": "before", "after": "after"}
_BLOCK_HEADS = ("block", "before", "after", "")


def _build(report: Report) -> Iterator[Notes | Table | Details]:
    record = report.block_local
    if not record or not record.get("samples"):
        return
    blocks = record.get("blocks") or []
    nearer, steps = sum(block["is_used"] for block in blocks), record.get("steps")
    words = f"{nearer} of {len(blocks)} blocks came nearer to the dense model's in {steps} steps"
    taken = "" if record.get("is_used") else "; the network did not, and was left as it was"
    yield Notes([f"{words} each{taken}; below, squared errors on samples held out"])
    yield error_table(record, _NETWORKS)
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
