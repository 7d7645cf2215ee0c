"""Amounts as people write them: '5%', '20MB', '90s', '30d'."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from diffc.errors import RequestError

BYTES = {"B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
SECONDS = {"MS": 1e-3, "S": 1.0, "MIN": 60.0}
AGES = {"H": 3600.0, "D": 86400.0, "W": 7 * 86400.0}
"""Units in seconds, of what lies for hours or weeks."""
_TEXT = re.compile(r"^\+?(-?[0-9]*\.?[0-9]+)\s*([a-zA-Z%]*)$")


def number_and_unit(text: str) -> tuple[float, str] | None:
    """'20 mb' -> (20.0, "MB"); the unit may be empty. None for what is no finite number."""
    match = _TEXT.match(text.strip())
    if match is None or not math.isfinite(float(match[1])):
        return None
    return float(match[1]), match[2].upper()


def parts_between_commas(text: str) -> list[str]:
    """['0.2', '0.3'] for '0.2, 0.3'; [''] for ''.

    Raises:
        ValueError: A part of several is empty.
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > 1 and "" in parts:
        whole = ",".join(filter(None, parts))
        meant = f"; did you mean {whole}?" if whole else ""
        raise ValueError(f"'{text}' has nothing at one side of a comma{meant}")
    return parts


def amount(
    flag: str, text: str, units: Mapping[str, float], wanted: str, *, zero: bool = False
) -> float:
    """'30ms' -> 0.03: an amount above 0 in one of the units.

    Args:
        flag: What to blame in an error.
        text: What was typed.
        units: Factor by unit, such as ``BYTES``; small and capital letters are the same.
        wanted: What would do, in words, such as ``a limit such as 30ms``.
        zero: True takes 0 as well.

    Raises:
        RequestError: It is no such amount.
    """
    parts = number_and_unit(text)
    if parts is None or parts[1] not in units or parts[0] < 0 or (not parts[0] and not zero):
        raise RequestError(f"{flag} {text}: not {wanted}")
    return parts[0] * units[parts[1]]
