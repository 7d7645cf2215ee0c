"""Latency: several calls timed in one process, in turn, so that what disturbs one disturbs all.

    warm-up   every call in turn, for 0.2 s at least (as trtexec: clocks rise), until three windows
              in a row agree within 10 %, or time is up; calls that have run already, where no
              time is given to it, only say how long they last
    rounds    each round times every call once, in a fresh random order (for two calls: AB or BA);
              at least N rounds and S seconds
    one time  the median of k calls in a row, k chosen so that it lasts 10 ms, and a tenth of the
              longest call: the first call after another engine's finds the caches cold, which a
              sampling loop's calls do not, and beside one of a second a single short call would
              say little

The first call of each (allocation, kernels, shapes) is kept apart: the caller, who binds the
engine, passes the time of binding and the first run. Raw samples are all kept.
"""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffc.measure.statistics import Ratio, Times, paired_ratio, percentile
from diffc_export.events import Progress, Work

Call = Callable[[], float]
"""Runs once and returns its seconds."""

_WARM_UP_SECONDS = 0.2
_WINDOW_CALLS = 5
_WINDOW_SECONDS = (0.02, 0.1)  # at least and, of long calls, at most
_MOST_WINDOW_CALLS = 100
_AGREE = 1.10
_OBSERVATION_SECONDS, _OF_LONGEST = 0.010, 0.1
_MOST_REPEATS = 16
_LONG_SECONDS = 0.1  # of a call in which cold caches and a first run's allocations do not show


@dataclass(frozen=True)
class LatencyOptions:
    """How long to measure.

    Attributes:
        rounds: At least so many rounds.
        seconds: At least so long; both must be reached.
        most_seconds: Stop there, whatever has been reached (at least 3 rounds are run).
        warmup_seconds: The longest warm-up.
        seed: Of the order within rounds and of the bootstrap.
    """

    rounds: int = 40
    seconds: float = 3.0
    most_seconds: float = 120.0
    warmup_seconds: float = 5.0
    seed: int = 0


@dataclass(frozen=True)
class Timings:
    """The times of several calls, in seconds.

    Attributes:
        samples: Call -> (rounds, k), the time of each of the k calls of a round.
        first: Call -> the time of its first call.
        warmup_seconds: How long the warm-up took.
        steady: Whether the warm-up ended because the times agreed; None: there was none.
        seed: Of the order within rounds.
        load: The system's load average over a minute, as the timing began.
    """

    samples: Mapping[str, NDArray[np.float64]]
    first: Mapping[str, float]
    warmup_seconds: float
    steady: bool | None
    seed: int
    load: float | None = None

    def times(self, name: str) -> Times:
        """Every single time of a call, in the order they were taken."""
        return self.samples[name].ravel()

    def round_medians(self, name: str) -> Times:
        """One time for each round: the median of its k calls."""
        medians: Times = np.median(self.samples[name], axis=1)
        return medians

    def ratio(self, numerator: str, denominator: str) -> Ratio:
        """The paired ratio of two calls' times."""
        return paired_ratio(
            self.round_medians(numerator), self.round_medians(denominator), self.seed
        )

    def neighbours(self, name: str) -> Ratio | None:
        """A call against itself: each round's time over the next round's; the machine's noise.

        A whole round lies between the two, so it is no smaller than what a paired ratio of two
        calls within one round suffers. None for fewer than 10 rounds.
        """
        times = self.round_medians(name)
        even = len(times) // 2 * 2
        if even < 10:
            return None
        return paired_ratio(times[0:even:2], times[1:even:2], self.seed)

    def percentiles_ms(self, name: str) -> dict[str, float]:
        """p50, p90, p95, p99 and the mean, in milliseconds, and how many times they are of."""
        times = self.times(name)
        percentiles = {f"p{p}": percentile(times, p) * 1e3 for p in (50, 90, 95, 99)}
        return {**percentiles, "mean": float(times.mean()) * 1e3, "n": len(times)}


def interleaved(
    calls: Mapping[str, Call],
    options: LatencyOptions,
    settle: Mapping[str, float] | None = None,
    first: Mapping[str, float] | None = None,
) -> Work[Timings]:
    """Time ``calls`` in turn; yields the seconds done of those expected.

    Args:
        calls: Name -> call.
        options: How long to measure.
        settle: Call -> seconds of rest after its turn: a thread pool that spins on for
            milliseconds takes the next engine's core. One call that is not timed follows, since a
            rest leaves caches cold; a long call warms them in its own first hundredth.
        first: Call -> the seconds that its first run took, where it has run already.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    begun = dict(first) if first else {name: call() for name, call in calls.items()}
    turns = _Turns(calls, settle or {}, begun)
    begin = time.perf_counter()
    if first and not options.warmup_seconds:
        typical, steady = _lengths(calls, begun), None
    else:
        typical, steady = yield from _warm_up(calls, turns, options)
    warm = time.perf_counter() - begin
    span = max(_OBSERVATION_SECONDS, _OF_LONGEST * max(typical.values(), default=0.0))
    repeats = {name: _repeats(span, seconds) for name, seconds in typical.items()}
    order = random.Random(options.seed)  # noqa: S311 - not for secrets
    taken: dict[str, list[list[float]]] = {name: [] for name in calls}
    start = time.perf_counter()
    rounds, elapsed = 0, 0.0
    while not _enough(rounds, elapsed, options):
        for name in order.sample(list(calls), len(calls)):
            taken[name].append(turns.take(name, repeats[name]))
        rounds += 1
        # read once: the last progress that a person sees says what ended the measurement
        elapsed = time.perf_counter() - start
        yield _progress(rounds, elapsed, options)
    samples = {name: np.asarray(times) for name, times in taken.items()}
    return Timings(samples, begun, warm, steady, options.seed, load)


class _Turns:
    """Runs calls in turn; a turn begins when the threads of the call before have come to rest."""

    def __init__(
        self, calls: Mapping[str, Call], settle: Mapping[str, float], seconds: Mapping[str, float]
    ) -> None:
        self._calls, self._settle, self._seconds = calls, settle, dict(seconds)
        self._before: str | None = None

    def take(self, name: str, repeats: int) -> list[float]:
        """The seconds of ``repeats`` calls in a row."""
        rest = self._settle.get(self._before, 0.0) if self._before not in (None, name) else 0.0
        if rest:
            time.sleep(rest)
            if self._seconds[name] < _LONG_SECONDS:
                self._calls[name]()
        self._before = name
        times = [self._calls[name]() for _ in range(repeats)]
        self._seconds[name] = min(times)
        return times


def _enough(rounds: int, elapsed: float, options: LatencyOptions) -> bool:
    if rounds >= options.rounds and elapsed >= options.seconds:
        return True
    return rounds >= 3 and elapsed >= options.most_seconds


def _progress(rounds: int, elapsed: float, options: LatencyOptions) -> Progress:
    expected = max(options.rounds * elapsed / rounds, options.seconds)
    return Progress(elapsed, min(expected, options.most_seconds), f"round {rounds}")


def _repeats(span: float, seconds: float) -> int:
    return min(_calls_in(span, seconds), _MOST_REPEATS)


def _calls_in(span: float, seconds: float) -> int:
    """The number of calls of ``seconds`` that fill ``span``; a clock may read 0 for a short one."""
    return max(math.ceil(span / max(seconds, 1e-7)), 1)


def _lengths(calls: Mapping[str, Call], first: Mapping[str, float]) -> dict[str, float]:
    """Each call's seconds: of its first run where that was long, since one run tells no more."""
    return {
        name: first[name] if first[name] >= _LONG_SECONDS else call()
        for name, call in calls.items()
    }


def _warm_up(
    calls: Mapping[str, Call], turns: _Turns, options: LatencyOptions
) -> Work[tuple[dict[str, float], bool]]:
    """Each call's typical seconds once warm, and whether its last three windows agreed."""
    start = time.perf_counter()
    size = {name: _window(call()) for name, call in calls.items()}
    windows: dict[str, list[float]] = {name: [] for name in calls}
    steady, elapsed = False, 0.0
    while elapsed == 0.0 or (
        elapsed < options.warmup_seconds and not (steady and elapsed >= _WARM_UP_SECONDS)
    ):
        for name in calls:
            windows[name].append(float(np.median(turns.take(name, size[name]))))
        steady = all(_agree(times[-3:]) for times in windows.values())
        elapsed = time.perf_counter() - start
        yield Progress(elapsed, None, "warming up")
    return {name: times[-1] for name, times in windows.items()}, steady


def _window(seconds: float) -> int:
    """Calls in one window: 5, fewer when they are long, more when they are short."""
    least, most = (_calls_in(span, seconds) for span in _WINDOW_SECONDS)
    return min(max(min(most, _WINDOW_CALLS), least), _MOST_WINDOW_CALLS)


def _agree(windows: list[float]) -> bool:
    return len(windows) == 3 and max(windows) <= _AGREE * min(windows)


def against_itself(call: Call, options: LatencyOptions) -> Work[Ratio]:
    """The paired ratio of a call with itself: 1 apart from this machine's noise."""
    timings = yield from interleaved({"A": call, "A again": call}, options)
    return timings.ratio("A again", "A")
