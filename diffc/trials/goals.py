"""What a loop must reach: time, speed-up, memory, SSIM, distance; any of them together.

Costs (time, speed-up, memory) do not depend on weights, so they are judged before any training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

from diffc.amounts import BYTES, SECONDS, amount
from diffc.errors import RequestError
from diffc.recipe.words import as_fraction
from diffc.report.units import factor, milliseconds, size

LATENCY, SPEEDUP, MEMORY = COSTS = ("max_latency", "speedup", "max_memory")
SSIM, DISTANCE = QUALITIES = ("min_ssim", "max_distance")
GOALS = (*COSTS, *QUALITIES)


@dataclass(frozen=True)
class Goals:
    """The goals that were given; None for the others.

    Attributes:
        max_latency: Milliseconds of the whole loop.
        speedup: Times as fast as the dense model's reference loop.
        max_memory: Bytes at the engine's peak.
        min_ssim: To the reference loop's images.
        max_distance: Times the dense model's own distance to the data.
    """

    max_latency: float | None = None
    speedup: float | None = None
    max_memory: float | None = None
    min_ssim: float | None = None
    max_distance: float | None = None

    @property
    def by_name(self) -> dict[str, float]:
        """The goals that were given, by name."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def wants_fastest(self) -> bool:
        """Whether the fastest loop is wanted; otherwise the best loop that costs no more."""
        return any(name in self.by_name for name in QUALITIES)

    def shortfalls(self, values: Mapping[str, float | None]) -> dict[str, float]:
        """By how much each goal is missed, as a share of it; without those that are reached.

        A goal without a value is missed by all of it.

        Args:
            values: The figures of a candidate, by the goals' names.
        """
        missed = {}
        for name, goal in self.by_name.items():
            short = _short(name, goal, values.get(name))
            if short > 0:
                missed[name] = short
        return missed

    def only(self, names: tuple[str, ...]) -> Goals:
        """The goals of these names alone."""
        return Goals(**{name: value for name, value in self.by_name.items() if name in names})

    def words(self) -> list[str]:
        """The goals in words."""
        return [_WORDS[name].format(figure(name, value)) for name, value in self.by_name.items()]


def _short(name: str, goal: float, value: float | None) -> float:
    if value is None or not math.isfinite(value):
        return 1.0
    if name in (SPEEDUP, SSIM):
        return 1 - value / goal
    return value / goal - 1


_WORDS = {
    LATENCY: "an image in at most {}",
    SPEEDUP: "at least {} as fast as dense",
    MEMORY: "at most {} of memory",
    SSIM: "SSIM at least {}",
    DISTANCE: "at most {} the dense distance",
}


def figure(name: str, value: float | None) -> str:
    """A goal's figure as people read it; a dash where there is none."""
    if value is None:
        return "-"
    if name == LATENCY:
        return milliseconds(value)
    if name == MEMORY:
        return size(value)
    if name == SSIM:
        return f"{value:.3g}"
    # a goal that was typed as 8x is shown as 8x, and not as 8.00x
    return f"{value:.3g}x" if value < 100 else factor(value)


def value_words(name: str, value: float | None) -> str:
    """'28.1 ms', '5.2x as fast', 'SSIM 0.81': what a candidate has, by a goal's name."""
    return _VALUES[name].format(figure(name, value))


_VALUES = {
    LATENCY: "{}",
    SPEEDUP: "{} as fast",
    MEMORY: "{} of memory",
    SSIM: "SSIM {}",
    DISTANCE: "{} the dense distance",
}


def read_goals(given: Mapping[str, object]) -> Goals:
    """The goals, from what was typed or passed.

    Args:
        given: Name -> text or number; None: not given.

    Raises:
        RequestError: One is no such amount, none was given, or they contradict each other.
    """
    values = {
        name: _READERS[name](name, value) for name, value in given.items() if value is not None
    }
    if not values:
        raise RequestError(
            "search needs a goal",
            hint="such as --min-ssim 0.85 for the fastest loop, or --max-latency 30ms for the best",
        )
    goals = Goals(**values)
    _check_together(goals)
    return goals


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _milliseconds(name: str, value: object) -> float:
    return 1e3 * amount(_flag(name), _text(value), SECONDS, "a limit such as 30ms or 1.5s")


def _bytes(name: str, value: object) -> float:
    return amount(_flag(name), _text(value), BYTES, "a limit such as 500MB or 2GB")


def _factor(name: str, value: object) -> float:
    text = _text(value).strip().lower().removesuffix("x")
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        example = "8 or 2.5" if name == SPEEDUP else "1.2"
        raise RequestError(f"{_flag(name)} {value}: not a factor above 0 such as {example}")
    return number


def _speedup(name: str, value: object) -> float:
    number = _factor(name, value)
    if number <= 1:
        raise RequestError(f"{_flag(name)} {value}: not above 1, which is the dense loop itself")
    return number


def _ssim(name: str, value: object) -> float:
    try:
        number = float(str(as_fraction(_text(value))))
    except ValueError:
        number = math.nan
    if not 0 < number <= 1:
        hint = f"did you mean {_flag(name)} {number:g}%?" if 1 < number <= 100 else None
        raise RequestError(
            f"{_flag(name)} {value}: not a share between 0 and 1 such as 0.85 or 85%", hint=hint
        )
    return number


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


_READERS = {
    LATENCY: _milliseconds,
    SPEEDUP: _speedup,
    MEMORY: _bytes,
    SSIM: _ssim,
    DISTANCE: _factor,
}


def _check_together(goals: Goals) -> None:
    """Raise RequestError for goals that nothing can reach together, whatever is measured."""
    if goals.min_ssim == 1.0:
        others = [_flag(name) for name in goals.by_name if name != SSIM]
        words = f"{_flag(SSIM)} 1 " + (f"and {others[0]} contradict" if others else "has no answer")
        raise RequestError(
            f"{words}: only the dense reference loop has the SSIM 1 to itself",
            hint="0.95 is very close to the dense model's images",
        )


def for_any_loop(options: Mapping[str, object], recipe: object) -> dict[str, object]:
    """Options of a search, which trains for any loop unless the user says otherwise.

    A model's own recipe may train for one loop, as the demo's does, and a search compares many.

    Args:
        options: As the user gave them, nested as in a recipe.
        recipe: What the user named; its own aim then counts.
    """
    distill = options.get("distill", {})
    assert isinstance(distill, Mapping)
    if recipe is not None or distill.get("aim") is not None:
        return {**options}
    return {"loops": (), **options, "distill": {**distill, "aim": "all-steps"}}
