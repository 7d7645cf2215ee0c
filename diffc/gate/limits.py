"""How much worse is allowed: '5%' of the baseline, or an absolute '20MB', '90s', '0.85'."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from diffc.errors import RequestError
from diffc.recipe import CheckSection

_BYTES = {"B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9}
_SECONDS = {"MS": 1e-3, "S": 1.0, "MIN": 60.0}
_TEXT = re.compile(r"^\+?(-?[0-9]*\.?[0-9]+)\s*([a-zA-Z%]*)$")
_MOST_SHARE = 10.0


@dataclass(frozen=True)
class Limit:
    """At most ``value`` (bytes or seconds), or at most ``1 + value`` times the baseline's."""

    text: str
    value: float
    relative: bool

    def allows(self, candidate: float, baseline: float | None) -> bool | None:
        """Whether ``candidate`` is within it; None when there is no baseline to be relative to."""
        if not self.relative:
            return candidate <= self.value
        return None if not baseline else candidate <= baseline * (1 + self.value)


@dataclass(frozen=True)
class Limits:
    """Every limit of a check; None: measured and reported, not judged.

    slowdown: d of the rule, as a share. mean_slowdown: the same for the mean. ssim: the least.
    """

    slowdown: float
    mean_slowdown: float | None
    memory: Limit | None
    engine_size: Limit | None
    build_time: Limit | None
    ssim: float | None


def limits(options: CheckSection) -> Limits:
    """The limits that ``options`` write as text. Raises RequestError naming a wrong one."""
    mean = options.max_mean_slowdown
    return Limits(
        slowdown=share("--max-slowdown", options.max_slowdown),
        mean_slowdown=None if mean is None else share("--max-mean-slowdown", mean),
        memory=_limit("--max-memory", options.max_memory, _BYTES),
        engine_size=_limit("--max-engine-size", options.max_engine_size, _BYTES),
        build_time=_limit("--max-build-time", options.max_build_time, _SECONDS),
        ssim=_ssim(options.min_ssim),
    )


def share(flag: str, text: str) -> float:
    """'5%' -> 0.05. Raises RequestError unless it is above 0 % and at most 1000 %."""
    number, unit = _parsed(flag, text, "such as 5%")
    if unit != "%":
        raise RequestError(f"{flag} {text}: not a share of the baseline's time such as 5%")
    if not 0 < number / 100 <= _MOST_SHARE:
        hint = "no measurement can tell 0%" if number == 0 else None
        raise RequestError(f"{flag} {text} is not between 0% and 1000%", hint=hint)
    return number / 100


def _limit(flag: str, text: str | None, units: dict[str, float]) -> Limit | None:
    if text is None:
        return None
    example = f"such as 5% or {'500MB' if units is _BYTES else '90s'}"
    number, unit = _parsed(flag, text, example)
    if unit == "%":
        if not 0 <= number / 100 <= _MOST_SHARE:
            raise RequestError(f"{flag} {text} is not between 0% and 1000%")
        return Limit(text, number / 100, relative=True)
    if unit not in units or number <= 0:
        raise RequestError(f"{flag} {text}: not a limit {example}")
    return Limit(text, number * units[unit], relative=False)


def _parsed(flag: str, text: str, example: str) -> tuple[float, str]:
    found = _TEXT.match(text.strip())
    if found is None or not math.isfinite(float(found[1])):
        raise RequestError(f"{flag} {text}: not a limit {example}")
    return float(found[1]), found[2].upper()


def _ssim(value: float | None) -> float | None:
    if value is not None and not 0 < value <= 1:
        raise RequestError(f"--min-ssim {value:g} is not between 0 and 1")
    return value
