"""Figures of samples as rows of a table, and how the samples were made, in words."""

from __future__ import annotations

import math

from diffc.measure.quality import metrics_of
from diffc.measure.quality.base import Metric
from diffc.report.loops import both_loops
from diffc.report.units import standard_error
from diffc_runtime.json_types import JsonObject

Row = tuple[str, str, str, str]
EXACT_ENOUGH = 0.2
"""The largest standard error of a ratio of two distances, over the ratio, at which it is said."""


def quality_rows(quality: JsonObject) -> list[Row]:
    """One row for each figure: its title, dense, compressed, and how exact it is."""
    return [_row(metric, quality[metric.name]) for metric in metrics_of(quality)]


def settings_words(figure: JsonObject) -> str:
    """How many images a figure is of, how they were made, and from which seeds."""
    plural = "s" if figure["n"] != 1 else ""
    words = f"{figure['n']} image{plural} from the same noise, {both_loops(figure)}"
    return f"{words}, seed {', '.join(map(str, figure['seeds']))}"


def reference_note(figure: JsonObject | None) -> str:
    """What the samples are that a distance is to, where they are none that the user named."""
    of = ((figure or {}).get("reference") or {}).get("of")
    return f"own distances are to {of}" if of else ""


def distance_words(quality: JsonObject) -> str:
    """'at 0.97 ± 0.03 times the dense model's own Frechet distance'; '' where none is exact enough.

    Both sides are of image sets whose errors are taken as independent, though the same noise makes
    them alike: the error of the ratio is at most this large.
    """
    for metric in metrics_of(quality):
        figure = quality[metric.name] or {}
        errors = figure.get("se")
        if (
            not errors
            or metric.better != "lower"
            or min(figure["dense"], figure["compressed"]) <= 0
        ):
            continue
        ratio = figure["compressed"] / figure["dense"]
        error = math.hypot(*(errors[side] / figure[side] for side in ("dense", "compressed")))
        if error <= EXACT_ENOUGH:
            times = f"{ratio:.2f} ± {ratio * error:.2f} times"
            return f"at {times} the dense model's {metric.label} ({figure['n']} images)"
    return ""


def _row(metric: Metric, figure: JsonObject | None) -> Row:
    """The row of one figure; a dash where it could not be computed."""
    if not figure:
        return metric.label, "", "-", ""
    title = metric.title(figure)
    if "mean" in figure:
        ends = [metric.as_text(end) for end in figure.get("ci95") or (None,)]
        within = "one image" if "-" in ends else f"95 % [{', '.join(ends)}]"
        return title, "", metric.as_text(figure["mean"]), within
    dense, compressed = (_with_error(metric, figure, side) for side in ("dense", "compressed"))
    return title, dense, compressed, _to_what(metric, figure)


def _to_what(metric: Metric, figure: JsonObject) -> str:
    """How much further or nearer the compressed side is, if that was measured; or the reference."""
    further, reference = figure.get("further"), figure.get("reference")
    if further:
        word = "further" if further["value"] >= 0 else "nearer"
        return f"{metric.as_text(abs(further['value']))} ± {standard_error(further['se'])} {word}"
    return f"to {reference['n']} images" if reference else ""


def _with_error(metric: Metric, figure: JsonObject, side: str) -> str:
    """A side's value and its standard error, where the figure has one."""
    value, errors = metric.as_text(figure.get(side)), figure.get("se", {})
    return f"{value} ± {standard_error(errors[side])}" if side in errors else value
