"""Figures as people read them."""

from __future__ import annotations

import math
from collections.abc import Sequence


def count(value: float) -> str:
    """4435393 -> '4.44 M'."""
    for factor, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * factor:  # 999.6 M is 1 G, not 1e+03 M
            return f"{value / factor:.3g} {unit}"
    return f"{value:g}"


def size(value: float | None) -> str:
    """Bytes in decimal units; a dash where nothing was measured."""
    if value is None:
        return "-"
    number = count(value)
    return f"{number}B" if " " in number else f"{number} B"


def milliseconds(value: float | None) -> str:
    """'7.31 ms', or a dash."""
    if value is None:
        return "-"
    return f"{value:.0f} ms" if value >= 999.5 else f"{value:.3g} ms"


def seconds(value: float) -> str:
    """'12.3 s', '2 min 05 s'."""
    if value < 59.95:  # 59.96 s is 1 min 00 s, not 60.0 s
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s"


def change(before: float | None, after: float | None) -> str:
    """'-50.1 %'; an empty string if one of the two is not known."""
    if not before or after is None:
        return ""
    return f"{(after / before - 1) * 100:+.1f} %"


def percent(share: float, digits: int = 0) -> str:
    """'50.2 %' of .502 with one digit behind the point."""
    return f"{share * 100:.{digits}f} %"


def factor(value: float) -> str:
    """'1.69x', '49.6x', '1,934x': how many times as much, in about three digits."""
    return f"{value:,.{factor_digits(value)}f}x"


def factor_digits(value: float) -> int:
    """How many decimals a factor has, and the ends of its interval."""
    return 2 if value < 9.995 else 1 if value < 99.95 else 0


def number(value: float | None, digits: int) -> str:
    """'0.931'; a dash for a value that is not finite, which JSON holds as null."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def standard_error(value: float) -> str:
    """'0.58', '960': a standard error in two digits, and never as 9.6e+02."""
    return f"{value:.2g}" if abs(value) < 99.5 else f"{value:.0f}"


def interval(pair: Sequence[float | None] | None, digits: int = 2) -> str:
    """'[1.79, 1.84]'; a dash where there is no interval."""
    ends = [number(end, digits) for end in pair or (None,)]
    return "-" if "-" in ends else f"[{ends[0]}, {ends[1]}]"


def cost_of_thousand(price_per_hour: float, images_per_s: float | None) -> str:
    """'0.166' for a machine of 0.71 an hour that makes 1.19 images a second."""
    if not images_per_s:
        return "-"
    return f"{price_per_hour / 3600 / images_per_s * 1000:.3g}"


def rate(value: float | None) -> str:
    """'177.6', '1.00', '0.043': a number a second; a dash where nothing was measured."""
    if value is None:
        return "-"
    if value >= 9.995:
        return f"{value:.1f}"
    return f"{value:.2f}" if value >= 0.9995 else f"{value:.3g}"
