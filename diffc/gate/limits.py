"""The limits of a check: '5%' of the baseline, or an absolute '20MB', '90s', '0.85'."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from diffc.amounts import BYTES, SECONDS, amount, number_and_unit
from diffc.errors import RequestError
from diffc.measure.quality import metric
from diffc.recipe import CheckSection

_MOST_SHARE = 10.0


@dataclass(frozen=True)
class Limit:
    """At most ``value`` (bytes or seconds), or at most ``1 + value`` times the baseline's."""

    text: str
    value: float
    relative: bool

    def allows(self, candidate: float, baseline: float | None) -> bool | None:
        """True for a candidate within the limit; None for a share of a baseline that is missing."""
        if not self.relative:
            return candidate <= self.value
        return None if not baseline else candidate <= baseline * (1 + self.value)


@dataclass(frozen=True)
class CheckLimits:
    """Every limit of a check; None: measured and reported, not judged.

    Attributes:
        slowdown: d of the rule, as a share.
        mean_slowdown: The same for the mean.
        memory: Of the peak memory.
        engine_size: Of the engine's files.
        build_time: Of the engine's build.
        quality: Metric -> the worst value that is allowed.
        worse: Metric -> by how much it may be worse than the baseline's; None: by any amount.
    """

    slowdown: float
    mean_slowdown: float | None
    memory: Limit | None
    engine_size: Limit | None
    build_time: Limit | None
    quality: Mapping[str, float] = field(default_factory=dict)
    worse: Mapping[str, float | None] = field(default_factory=dict)


def limits_of(options: CheckSection) -> CheckLimits:
    """The limits that ``options`` write as text.

    Raises:
        RequestError: A limit makes no sense; the message names it.
    """
    mean_slowdown = options.max_mean_slowdown
    return CheckLimits(
        slowdown=share("--max-slowdown", options.max_slowdown),
        mean_slowdown=None
        if mean_slowdown is None
        else share("--max-mean-slowdown", mean_slowdown),
        memory=_limit("--max-memory", options.max_memory, BYTES),
        engine_size=_limit("--max-engine-size", options.max_engine_size, BYTES),
        build_time=_limit("--max-build-time", options.max_build_time, SECONDS),
        quality=_quality(options),
        worse=_worse(options),
    )


def share(flag: str, text: str) -> float:
    """'5%' -> 0.05.

    Raises:
        RequestError: The share is not above 0 % and at most 1000 %.
    """
    number, unit = _parsed(flag, text, "such as 0.05 or 5%")
    if unit != "%":
        hint = None if unit else f"did you mean {flag} {number:g}%?"
        raise RequestError(f"{flag} {text}: not a share such as 0.05 or 5%", hint=hint)
    if not 0 < number / 100 <= _MOST_SHARE:
        hint = "no measurement can tell 0%" if number == 0 else None
        raise RequestError(f"{flag} {text} is not between 0% and 1000%", hint=hint)
    return number / 100


def _limit(flag: str, text: str | None, units: dict[str, float]) -> Limit | None:
    if text is None:
        return None
    example = f"such as 5% or {'500MB' if units is BYTES else '90s'}"
    number, unit = _parsed(flag, text, example)
    if unit == "%":
        if not 0 <= number / 100 <= _MOST_SHARE:
            raise RequestError(f"{flag} {text} is not between 0% and 1000%")
        return Limit(text, number / 100, relative=True)
    return Limit(text, amount(flag, text, units, f"a limit {example}"), relative=False)


def _parsed(flag: str, text: str, example: str) -> tuple[float, str]:
    parts = number_and_unit(text)
    if parts is None:
        raise RequestError(f"{flag} {text}: not a limit {example}")
    return parts


def _quality(options: CheckSection) -> dict[str, float]:
    """The limits of metrics. ``min_ssim`` is the limit of SSIM under its older name."""
    flags = {name: f"--limit {name}=" for name in options.limits}
    worst = dict(options.limits)
    if options.min_ssim is not None:
        worst["ssim"], flags["ssim"] = options.min_ssim, "--min-ssim "
    for name, value in worst.items():
        between = metric(name).limits
        if between is None:
            raise RequestError(f"{flags[name]}{value:g}: {metric(name).label} is only reported")
        if not between[0] < value <= between[1]:
            low, high = between
            words = f"above {low:g}" if math.isinf(high) else f"between {low:g} and {high:g}"
            raise RequestError(f"{flags[name]}{value:g} is not {words}")
    return worst


def _worse(options: CheckSection) -> dict[str, float | None]:
    """By how much metrics may be worse than the baseline's, where the options say so."""
    for name, value in options.max_worse.items():
        flag = f"--max-worse {name}="
        if metric(name).limits is None:
            raise RequestError(f"{flag}{value}: {metric(name).label} is only reported")
        if value is not None and value < 0:
            raise RequestError(f"{flag}{value:g} is below 0", hint="off allows any amount")
    return dict(options.max_worse)
