"""The frontier as a picture file: time of an image against closeness, both sides, by matplotlib.

The page has the same points as inline SVG (svg.py) and the terminal in characters (plot.py). This
one is for slides and papers: PNG, SVG or PDF.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from diffc.errors import InputError, UnavailableError
from diffc.measure.frontier.results import Frontier, Point, Side
from diffc.measure.frontier.standing import main_metric, pareto
from diffc.measure.quality.base import Metric
from diffc.report.frontiers import product_words
from diffc.report.model import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KINDS = ("png", "svg", "pdf")
_WIDTH, _HEIGHT, _DPI = 7.2, 4.4, 150
_ROOM = 1.15
"""How much longer a loop takes than the one before it whose name is shown, at least."""
_STYLES: tuple[tuple[Side, str, str, str], ...] = (
    ("dense", "o", "white", "C0"),
    ("compressed", "s", "C1", "C1"),
)
"""Side, marker, the marker's face and its colour: the sides differ without colour too."""


def frontier_figure(report: Report, kind: str) -> bytes:
    """Draw every target's frontier, one above the other.

    Args:
        report: A run's report.
        kind: One of KINDS.

    Returns:
        The file's content.

    Raises:
        InputError: The report has no frontier with judged loops.
        UnavailableError: matplotlib is not installed.
    """
    judged = [(one, metric) for one in report.frontiers if (metric := main_metric(one))]
    if not judged:
        raise InputError(
            "the report has no frontier to draw: no loops were timed and judged",
            hint="compile or bench with --frontier quick",
        )
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        hint = "pip install 'diffc[plot]'"
        raise UnavailableError(
            "--plot needs matplotlib, which is not installed", hint=hint
        ) from None
    figure = Figure(figsize=(_WIDTH, _HEIGHT * len(judged)), layout="constrained")
    FigureCanvasAgg(figure)  # of this figure alone: a caller's own backend stays as it is
    axes = figure.subplots(len(judged), squeeze=False)
    for (frontier, metric), place in zip(judged, axes[:, 0], strict=True):
        _draw(place, report.model.name, frontier, metric)
    content = io.BytesIO()
    # no date and no random name in the file: the same report gives the same bytes
    dates: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with rc_context({"svg.hashsalt": "diffc"}):
        figure.savefig(content, format=kind, dpi=_DPI, metadata=dates.get(kind))
    return content.getvalue()


def _draw(axes: Axes, name: str, frontier: Frontier, metric: Metric) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for side, marker, face, colour in _STYLES:
        points = [p for p in frontier.of(side) if metric.name in p.figures and p.latency_ms]
        front = sorted(pareto(points, metric), key=_ms)
        axes.plot(*_places(front, metric), "-", color=colour, linewidth=1, zorder=1)
        axes.errorbar(
            *_places(points, metric), yerr=_errors(points, metric), fmt=marker, color=colour,
            markerfacecolor=face, markersize=6, capsize=2, linewidth=0.8, label=side,
        )  # fmt: skip
        _name(axes, _apart(front), metric, colour, above=side == "compressed")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda ms, _: f"{ms:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.12, y=0.12)
    axes.set_xlabel(f"time of one image on {frontier.target}, {frontier.precision}, ms")
    axes.set_ylabel(f"{metric.label} to dense {frontier.reference}, {frontier.n} images")
    axes.set_title("\n".join(filter(None, (name, product_words(frontier)))), fontsize=9)
    axes.grid(alpha=0.3, which="both")
    axes.legend()


def _apart(front: Sequence[Point]) -> list[Point]:
    """The points whose names have room: of several that take about as long, the first."""
    shown: list[Point] = []
    for point in front:
        if not shown or _ms(point) > _ROOM * _ms(shown[-1]):
            shown.append(point)
    return shown


def _name(axes: Axes, points: Sequence[Point], metric: Metric, colour: str, *, above: bool) -> None:
    """Loops beside their points: above at the left, or below at the right."""
    for point in points:
        axes.annotate(
            point.loop, (_ms(point), point.figures[metric.name].value), fontsize=7, color=colour,
            xytext=(-5, 5) if above else (6, -5), textcoords="offset points",
            ha="right" if above else "left", va="bottom" if above else "top",
        )  # fmt: skip


def _ms(point: Point) -> float:
    assert point.latency_ms is not None
    return point.latency_ms.p50


def _places(points: Sequence[Point], metric: Metric) -> tuple[list[float], list[float]]:
    return [_ms(p) for p in points], [p.figures[metric.name].value for p in points]


def _errors(points: Sequence[Point], metric: Metric) -> list[list[float]]:
    """From each value down and up to the ends of its 95 % interval; 0 where it has none."""
    lengths: list[list[float]] = [[], []]
    for point in points:
        figure = point.figures[metric.name]
        low, high = figure.ci95 or (figure.value, figure.value)
        lengths[0].append(max(figure.value - low, 0.0))
        lengths[1].append(max(high - figure.value, 0.0))
    return lengths
