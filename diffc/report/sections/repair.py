"""The repair right after the cut: the network's errors, and each layer's."""

from __future__ import annotations

from collections.abc import Iterator

from diffc.report.blocks import Details, Notes, Table
from diffc.report.model import Report
from diffc.report.network_errors import error_table
from diffc.report.sections import Section

_NETWORKS = {"dense": "dense", "cut": "after the cut", "repaired": "repaired"}
_LAYER_HEADS = ("layer", "before", "after", "ridge")


def _build(report: Report) -> Iterator[Notes | Table | Details]:
    record = report.repair
    if not record or not record.get("samples"):
        return
    layers, left = record.get("layers") or [], record.get("left_alone") or {}
    mended = sum(layer["ridge"] is not None for layer in layers)
    words = f"{mended} of {len(layers) + len(left)} layers that read cut channels were given"
    yield Notes([f"{words} least-squares weights; below, squared errors on samples held out"])
    yield error_table(record, _NETWORKS)
    yield Notes([*map(str, record.get("notes") or ()), *(f"{n}: {why}" for n, why in left.items())])
    each = [
        (
            layer["name"],
            f"{layer['before']:.4f}",
            f"{layer['after']:.4f}",
            "kept" if layer["ridge"] is None else f"{layer['ridge']:g}",
        )
        for layer in layers
    ]
    yield Details("relative squared error of each layer", [Table(each, _LAYER_HEADS)])


SECTION = Section("Repair", 115, _build)
