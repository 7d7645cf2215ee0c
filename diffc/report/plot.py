"""A plot in characters, for a terminal of any width: signs over a logarithmic x axis.

It needs no colour and no characters beyond ASCII. Where several points fall on one place, the most
important one is drawn: a capital letter over a small one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDEST, HEIGHT = 76, 13
_LEAST = 24


@dataclass(frozen=True)
class Mark:
    """One point: where it lies, and the letter that stands for it."""

    x: float
    y: float
    sign: str


@dataclass(frozen=True)
class Plot:
    """Points over a logarithmic x axis.

    Attributes:
        marks: The points, finite, x above 0.
        x_name: The name of the x axis, with its unit.
        y_name: The name of the y axis.
        key: What the signs mean.
        y_digits: The digits of numbers at the y axis.
    """

    marks: Sequence[Mark]
    x_name: str
    y_name: str
    key: str
    y_digits: int = 2


def draw(plot: Plot, width: int) -> list[str]:
    """Return the lines of a plot of at most ``width`` characters; none where it has no room."""
    width = min(width, WIDEST)
    if not plot.marks or width < _LEAST:
        return []
    ys = [mark.y for mark in plot.marks]
    low, high = _range(ys)
    ends = [f"{end:.{plot.y_digits}f}" for end in (high, low)]
    left = max(map(len, ends))
    columns = width - left - 2
    cells = [[" "] * columns for _ in range(HEIGHT)]
    x_low, x_high = _range([math.log10(mark.x) for mark in plot.marks])
    for mark in sorted(plot.marks, key=lambda mark: mark.sign.isupper()):
        column = _place(math.log10(mark.x), x_low, x_high, columns)
        row = HEIGHT - 1 - _place(mark.y, low, high, HEIGHT)
        cells[row][column] = mark.sign
    labels = {0: ends[0], HEIGHT - 1: ends[1]}
    lines = [f"{labels.get(i, ''):>{left}} |{''.join(row)}".rstrip() for i, row in enumerate(cells)]
    axis = f"{'':>{left}} +{'-' * columns}"
    first, last = (_ms(10**end) for end in (x_low, x_high))
    numbers = f"{'':>{left}}  {first}{last:>{columns - len(first)}}"
    return [plot.y_name, *lines, axis, numbers, f"{plot.x_name:>{width}}"]


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _place(value: float, low: float, high: float, cells: int) -> int:
    return round((value - low) / (high - low) * (cells - 1))


def _ms(value: float) -> str:
    return f"{value:.3g}" if value < 999.5 else f"{value:.0f}"
