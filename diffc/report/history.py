"""Latency over time: the lines of a history that ``diffc check`` keeps, as parts of a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from diffc.report import svg
from diffc.report.blocks import Chart, Part, Table
from diffc.report.sections import build_parts
from diffc_runtime.json_types import JsonObject

_TITLE = "Latency over time"
_KEYS = ("model", "target", "precision", "batch", "fingerprint")
_HEADS = ("", "when", "p50, ms", "verdict", "what")
_LABEL = "median latency over time; its points are in the table"


def history_parts(history: Sequence[JsonObject]) -> list[Part]:
    """Return one part for each machine, model, target, precision and batch.

    Args:
        history: Rows of ``diffc.gate.history``.
    """
    return build_parts(_TITLE, lambda: _series_parts(history))


def _series_parts(history: Sequence[JsonObject]) -> Iterator[Part]:
    series: dict[tuple[str, ...], list[JsonObject]] = {}
    for row in history:
        if isinstance(row["p50_ms"], int | float):
            series.setdefault(tuple(str(row[key]) for key in _KEYS), []).append(row)
    for (model, target, precision, batch, machine), rows in series.items():
        place = f"{model}, {target} {precision}, batch {batch} (machine {machine})"
        yield Part(f"{_TITLE}: {place}", [_block(rows)])


def _block(rows: Sequence[JsonObject]) -> Chart | Table:
    """A chart with its table; a single point needs no chart."""
    cells = [
        (
            str(number),
            str(row["created"]),
            f"{row['p50_ms']:.4g}",
            str(row["verdict"]),
            str(row["source"]),
        )
        for number, row in enumerate(rows, 1)
    ]
    table = Table(cells, _HEADS)
    if len(rows) < 2:
        return table
    points = [(float(number), float(row["p50_ms"])) for number, row in enumerate(rows, 1)]
    return Chart(svg.line(points, x_name="measurement", y_name="p50, ms", label=_LABEL), table)
