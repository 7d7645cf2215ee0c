"""Samples of both models from the same noise: the pictures, and how close they are.

Each metric (diffc/measure/quality) states the title and the digits of its figure.
"""

from __future__ import annotations

from collections.abc import Iterator

from diffc.measure.quality import metrics_of
from diffc.measure.quality.base import Metric
from diffc.report.blocks import Images, Notes, Table
from diffc.report.model import Report
from diffc.report.sections import Section
from diffc_runtime.json_types import JsonDict, JsonObject

Row = tuple[str, str, str, str]


def _build(report: Report) -> Iterator[Images | Table | Notes]:
    quality = report.quality or {}
    figure = _first_figure(quality)
    yield Images(
        "samples/dense.png",
        "samples/compressed.png",
        "samples/grid.png",
        "Both models from the same noise",
        f"{figure['sampler']}, {figure['steps']} steps" if figure else "",
    )
    if quality:
        yield Table([_row(metric, quality[metric.name]) for metric in metrics_of(quality)])
        yield Notes(_notes(quality))


def _first_figure(quality: JsonObject) -> JsonDict | None:
    """The first figure that could be computed; all are of the same samples."""
    figures = [quality[metric.name] for metric in metrics_of(quality)]
    return next((figure for figure in figures if figure), None)


def _row(metric: Metric, figure: JsonObject | None) -> Row:
    """The row of one figure; a dash for one that could not be computed."""
    if not figure:
        return metric.label, "", "-", ""
    title = metric.title(figure)
    if "mean" in figure:
        ends = [metric.as_text(end) for end in figure.get("ci95") or (None,)]
        within = "one image" if "-" in ends else f"95 % [{', '.join(ends)}]"
        return title, "", metric.as_text(figure["mean"]), within
    dense, compressed = (_with_error(metric, figure, side) for side in ("dense", "compressed"))
    reference = figure.get("reference")
    return title, dense, compressed, f"to {reference['n']} images" if reference else ""


def _with_error(metric: Metric, figure: JsonObject, side: str) -> str:
    """A side's value and its standard error, where the figure has one."""
    value, errors = metric.as_text(figure.get(side)), figure.get("se", {})
    return f"{value} ± {errors[side]:.2g}" if side in errors else value


def _notes(quality: JsonObject) -> list[str]:
    """How the images were made, why a figure is left out, and how to read the others."""
    figure = _first_figure(quality)
    metrics = metrics_of(quality)
    absent: dict[str, str] = quality.get("absent", {})
    notes = [_settings(figure)] if figure else []
    notes += [absent[metric.name] for metric in metrics if metric.name in absent]
    notes += [metric.note for metric in metrics if metric.note and quality[metric.name]]
    return list(dict.fromkeys(notes))


def _settings(figure: JsonObject) -> str:
    plural = "s" if figure["n"] != 1 else ""
    words = f"{figure['n']} image{plural} from the same noise, {figure['sampler']}, "
    words += f"{figure['steps']} steps, seed {', '.join(map(str, figure['seeds']))}"
    scale = figure.get("guidance", 1)
    return words + (f", guidance {scale:g}" if scale != 1 else "")


SECTION = Section("Compressed against dense samples", 20, _build)
