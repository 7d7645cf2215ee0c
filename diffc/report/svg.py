"""Charts as inline SVG, readable without colour, from plain numbers.

    bar         a bar within an outline, for a table's cell
    histogram   two distributions, one row each, with their medians
    steps       one bar per step, the step before as an outline, so that each drop is seen
    line        a curve through points, optionally with a level, shaded spans, a logarithmic y axis
    scatter     labelled points
    fronts      the points of several series, and lines through the best of each

Sizes are in a view box of WIDTH units, which the page scales between 320 and 560 pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from diffc.report.markup import Html, joined, tag

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 420.0, 54.0, 22.0, 26.0, 38.0
_BINS = 48
_LETTER, _LINE = 6.6, 13.0
"""The width of a letter and the height of a line, about."""
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Axis:
    """Values from low to high laid on units from start to end."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """Where ``value`` lies, in units."""
        low, high, v = (self._scaled(x) for x in (self.low, self.high, value))
        return self.start + (v - low) / ((high - low) or 1.0) * (self.end - self.start)

    def _scaled(self, value: float) -> float:
        return math.log10(max(value, 1e-300)) if self.log else value

    def ticks(self) -> list[float]:
        """Round values along the axis.

        Of a logarithmic axis the powers of ten, or its two ends where fewer than two lie on it.
        """
        if not self.log:
            return round_ticks(self.low, self.high)
        powers = range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)
        ticks = [10.0**p for p in powers]
        return ticks if len(ticks) > 1 else [self.low, self.high]


def round_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """About ``wanted`` multiples of 1, 2 or 5 times a power of ten between low and high."""
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return [low]
    rough = span / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough)
    first = math.ceil(low / step - 1e-9)
    return [step * i for i in range(first, math.floor(high / step + 1e-9) + 1)]


def bar(share: float, of: float = 1.0, *, second: bool = False) -> Html:
    """A bar inside an outline.

    Args:
        share: The filled length, from 0 to 1 of the full width.
        of: The length of the outline, from 0 to 1.
        second: Draw it in the compressed model's colour.
    """
    share, of = (min(max(v, 0.0), 1.0) for v in (share, of))
    outline = tag("rect", class_="outline", x=0.0, y=1.0, width=200 * of, height=12.0)
    filled = tag(
        "rect", class_="second" if second else "first", x=0.0, y=1.0, width=200 * share, height=12.0
    )
    return tag(
        "svg",
        outline if of < 1 or of > share else None,
        filled,
        class_="bar",
        viewBox="0 0 200 14",
        preserveAspectRatio="none",
        aria_hidden="true",
    )


def histogram(rows: Sequence[tuple[str, Sequence[float]]], unit: str, label: str) -> Html:
    """One row per distribution, from the least value to the 99th percentile of all."""
    values = sorted(v for _, row in rows for v in row)
    low, high = values[0], values[min(len(values) - 1, int(0.99 * len(values)))]
    if high <= low:
        low, high = low * 0.95 - 1e-9, high * 1.05 + 1e-9
    height = TOP + 70.0 * len(rows) + BOTTOM
    x = Axis(low, high, LEFT + 26, WIDTH - RIGHT)
    parts = [_x_axis(x, height - BOTTOM, unit)]
    for index, (name, row) in enumerate(rows):
        base = TOP + 70.0 * (index + 1) - 4
        parts += _bins(row, x, base, "second" if index else "first")
        parts.append(_text(name, 2, base - 20))
    return _chart(parts, height, label)


def _bins(row: Sequence[float], x: Axis, base: float, kind: str) -> list[Html]:
    """The bars of one distribution and its median; the last bar has what lies beyond the axis."""
    counts = [0] * _BINS
    for value in row:
        place = int((value - x.low) / (x.high - x.low) * _BINS)
        counts[min(max(place, 0), _BINS - 1)] += 1
    most, step = max(counts), (x.end - x.start) / _BINS
    bars = [
        tag(
            "rect",
            class_=kind,
            x=x.start + i * step,
            y=base - 46 * n / most,
            width=step,
            height=46 * n / most,
        )
        for i, n in enumerate(counts)
        if n
    ]
    median = sorted(row)[(len(row) - 1) // 2]
    at = min(x.at(median), x.end)
    near_end = at > WIDTH - 90
    shown = f"{median:.0f}" if median >= 100 else f"{median:.3g}"
    words = _text(
        f"p50 {shown}", at + (-4 if near_end else 4), base - 52, "end" if near_end else "start"
    )
    return [*bars, tag("line", class_="mark", x1=at, x2=at, y1=base, y2=base - 60), words]


def steps(rows: Sequence[tuple[str, float, str]], unit: str, label: str) -> Html:
    """One bar from zero for each step, in the outline of the bar before.

    Args:
        rows: (name, value, words) from top to bottom; the words stand at the right of the name.
        unit: The name of the axis.
        label: What the picture shows, for readers who do not see it.
    """
    height = 8 + 40.0 * len(rows) + BOTTOM
    x = Axis(0.0, max(value for _, value, _ in rows) or 1.0, 6.0, WIDTH - RIGHT)
    parts = [_x_axis(x, height - BOTTOM, unit)]
    for index, (name, value, words) in enumerate(rows):
        top = 8 + 40.0 * index
        before = rows[index - 1][1] if index else value
        outline = tag(
            "rect",
            class_="outline",
            x=x.start,
            y=top + 18,
            width=x.at(before) - x.start,
            height=14.0,
        )
        filled = tag(
            "rect",
            class_="second" if index == len(rows) - 1 else "first",
            x=x.start,
            y=top + 18,
            width=x.at(value) - x.start,
            height=14.0,
        )
        parts += [
            filled,
            outline,
            _text(name, x.start, top + 12),
            _text(words, WIDTH - RIGHT, top + 12, "end"),
        ]
    return _chart(parts, height, label)


def line(
    points: Points,
    *,
    x_name: str,
    y_name: str,
    label: str,
    level: tuple[float, str] | None = None,
    spans: Sequence[tuple[float, float]] = (),
    log: bool = False,
    x_range: tuple[float, float] | None = None,
) -> Html:
    """A curve with a dot at each of its points.

    Args:
        points: (x, y); points that are not finite are left out.
        x_name: The name of the x axis.
        y_name: The name of the y axis.
        label: What the picture shows, for readers who do not see it.
        level: A horizontal line at this value, and its name.
        spans: Shaded ranges of x.
        log: Draw y by powers of ten.
        x_range: The ends of the x axis; None for those of the points.
    """
    points = [(px, py) for px, py in points if math.isfinite(py) and (py > 0 or not log)]
    height = 220.0
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    low_x, high_x = x_range or (min(xs), max(xs))
    x = Axis(low_x, high_x, LEFT, WIDTH - RIGHT)
    low = min(ys) if log else min(0.0, *ys)
    y = Axis(low, max([*ys, level[0] if level else low]) or 1.0, height - BOTTOM, TOP, log)
    parts = [_span(s, x, y) for s in spans]
    parts += [_x_axis(x, height - BOTTOM, x_name), *_y_axis(y, y_name)]
    path = " ".join(f"{x.at(px):.1f},{y.at(py):.1f}" for px, py in points)
    parts.append(tag("polyline", class_="curve", points=path))
    if len(points) <= 60:
        parts += [_dot(x.at(px), y.at(py)) for px, py in points]
    if level is not None:
        at = y.at(level[0])
        parts.append(tag("line", class_="level", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at))
        parts.append(_text(level[1], WIDTH - RIGHT - 2, at - 4, "end"))
    return _chart(parts, height, label)


def scatter(
    points: Sequence[tuple[str, float, float]], *, x_name: str, y_name: str, label: str
) -> Html:
    """(name, x, y) as numbered dots; a table beside the picture has the names."""
    height = 260.0
    xs, ys = [p[1] for p in points], [p[2] for p in points]
    margin = 0.08 * ((max(ys) - min(ys)) or abs(max(ys)) or 1.0)
    x = Axis(0.0, max(xs) * 1.1, LEFT, WIDTH - RIGHT)
    y = Axis(min(ys) - margin, max(ys) + margin, height - BOTTOM, TOP)
    parts = [_x_axis(x, height - BOTTOM, x_name), *_y_axis(y, y_name)]
    for number, (_, px, py) in enumerate(points, 1):
        parts += [_dot(x.at(px), y.at(py), 5.0), _text(str(number), x.at(px) + 8, y.at(py) + 4)]
    return _chart(parts, height, label)


@dataclass(frozen=True)
class Series:
    """Points of one name.

    Attributes:
        name: What stands in the picture's key.
        points: (label, x, y), x above 0.
        front: Those that a line joins, from left to right; their labels are shown.
    """

    name: str
    points: Sequence[tuple[str, float, float]]
    front: Sequence[tuple[str, float, float]]


def fronts(several: Sequence[Series], x_name: str, y_name: str, label: str) -> Html:
    """Every series' points over a logarithmic x axis; the second series in the second colour.

    The first series has rings and labels below its line, the second dots and labels above: the two
    can be distinguished without colour.
    """
    every = [point for series in several for point in series.points]
    if not every:
        return _chart([], TOP, label)
    height, xs, ys = 320.0, [p[1] for p in every], [p[2] for p in every]
    margin = 0.08 * ((max(ys) - min(ys)) or abs(max(ys)) or 1.0)
    x = Axis(min(xs) / 1.15, max(xs) * 1.25, LEFT, WIDTH - RIGHT, log=True)
    y = Axis(min(ys) - margin, max(ys) + margin, height - BOTTOM, TOP)
    parts = [_log_axis(x, height - BOTTOM, x_name), *_y_axis(y, y_name)]
    names: list[_Name] = []
    for index, series in enumerate(several):
        second = index > 0
        parts += _front(series, x, y, second=second)
        parts.append(_key(series.name, second=second, row=index))
        # the compressed side, drawn last, keeps its names
        names += [_beside(n, x.at(px), y.at(py), above=second) for n, px, py in series.front]
    return _chart([*parts, *(name.drawn() for name in _apart(names[::-1]))], height, label)


def _front(series: Series, x: Axis, y: Axis, *, second: bool) -> list[Html]:
    path = " ".join(f"{x.at(px):.1f},{y.at(py):.1f}" for _, px, py in series.front)
    kind = "front second" if second else "front"
    parts = [tag("polyline", class_=kind, points=path)] if len(series.front) > 1 else []
    for name, px, py in series.points:
        title = tag("title", f"{series.name} {name}: {px:.3g} ms, {py:.3f}")
        kind = "dot" if second else "ring"
        parts.append(tag("circle", title, class_=kind, cx=x.at(px), cy=y.at(py), r=4.0))
    return parts


@dataclass(frozen=True)
class _Name:
    """A name in a picture: its words, where its base line begins, and how long it is."""

    words: str
    x: float
    y: float
    length: float

    def drawn(self) -> Html:
        return _text(self.words, self.x, self.y)

    def covers(self, other: _Name) -> bool:
        beside = self.x + self.length < other.x or other.x + other.length < self.x
        return not beside and abs(self.y - other.y) < _LINE


def _apart(names: Sequence[_Name]) -> list[_Name]:
    """The names that cover no earlier one: the others are in the table, and under the pointer."""
    shown: list[_Name] = []
    for name in names:
        if not any(name.covers(one) for one in shown):
            shown.append(name)
    return shown


def _beside(name: str, at: float, height: float, *, above: bool) -> _Name:
    """A point's name: above at its left, or below at its right, where the picture has room."""
    length = _LETTER * len(name)
    left = at - length - 7 > LEFT if above else at + length + 7 > WIDTH
    up = -7 if above or left else 16
    return _Name(name, at - 7 - length if left else at + 7, height + up, length)


def _key(name: str, *, second: bool, row: int) -> Html:
    at = TOP + 10 + 16.0 * row
    kind = "dot" if second else "ring"
    dot = tag("circle", class_=kind, cx=LEFT + 14, cy=at - 4, r=4.0)
    return joined(dot, _text(name, LEFT + 24, at))


def _log_axis(x: Axis, base: float, name: str) -> Html:
    """The axis with 1, 2 and 5 times each power of ten."""
    parts = [tag("line", class_="axis", x1=x.start, x2=x.end, y1=base, y2=base)]
    powers = range(math.floor(math.log10(x.low)), math.ceil(math.log10(x.high)) + 1)
    ticks = [m * 10.0**p for p in powers for m in (1, 2, 5) if x.low <= m * 10.0**p <= x.high]
    for value in ticks:
        at = x.at(value)
        parts.append(tag("line", class_="axis", x1=at, x2=at, y1=base, y2=base + 4))
        parts.append(_text(f"{value:g}", at, base + 16, "middle"))
    parts.append(_text(name, (x.start + x.end) / 2, base + 32, "middle"))
    return joined(*parts)


def _span(span: tuple[float, float], x: Axis, y: Axis) -> Html:
    low, high = max(span[0], x.low), min(span[1], x.high)
    return tag(
        "rect",
        class_="span",
        x=x.at(low),
        y=y.end,
        width=max(x.at(high) - x.at(low), 0.0),
        height=y.start - y.end,
    )


def _x_axis(x: Axis, base: float, name: str) -> Html:
    parts = [tag("line", class_="axis", x1=x.start, x2=x.end, y1=base, y2=base)]
    for value in x.ticks():
        parts.append(
            tag("line", class_="axis", x1=x.at(value), x2=x.at(value), y1=base, y2=base + 4)
        )
        parts.append(_text(f"{value:.4g}", x.at(value), base + 16, "middle"))
    parts.append(_text(name, (x.start + x.end) / 2, base + 32, "middle"))
    return joined(*parts)


def _y_axis(y: Axis, name: str) -> list[Html]:
    parts = [tag("line", class_="axis", x1=LEFT, x2=LEFT, y1=y.start, y2=y.end)]
    for value in y.ticks():
        at = y.at(value)
        parts.append(tag("line", class_="rule", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at))
        parts.append(_text(f"{value:.2g}" if y.log else f"{value:.3g}", LEFT - 5, at + 4, "end"))
    return [*parts, _text(name, 2, TOP - 13)]


def _dot(x: float, y: float, radius: float = 3.0) -> Html:
    return tag("circle", class_="dot", cx=x, cy=y, r=radius)


def _text(words: str, x: float, y: float, anchor: str = "start") -> Html:
    return tag("text", words, x=float(x), y=float(y), text_anchor=anchor)


def _chart(parts: Sequence[Html], height: float, label: str) -> Html:
    return tag(
        "svg",
        *parts,
        class_="chart",
        role="img",
        aria_label=label,
        viewBox=f"0 0 {WIDTH:g} {height:g}",
    )
