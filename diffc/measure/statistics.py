"""The statistics of timings and of figures: percentiles, paired ratios, noise, means of images.

Sources: trtexec's percentile; paired ("duet") benchmarking, arXiv 2001.05811; the bootstrap of
paired ratios as Chromium's performance bots use it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.typing import NDArray

from diffc_runtime.json_types import JsonDict

Times = NDArray[np.float64]
RESAMPLES = 2000


def percentile(samples: Times, p: float) -> float:
    """trtexec's rule: the sorted sample at ``max(n - 1 - int((1 - p/100) n), 0)``, never between.

    samples: (n,), n >= 1. The small addend keeps (1 - 0.9) * 10 from counting as 0.
    """
    n = len(samples)
    above = int((100.0 - p) * n / 100.0 + 1e-9)
    return float(np.sort(samples)[max(n - 1 - above, 0)])


@dataclass(frozen=True)
class Ratio:
    """A paired ratio of times: its median and its intervals, over ``pairs`` observations."""

    median: float
    ci95: tuple[float, float]
    ci99: tuple[float, float]
    pairs: int


def paired_ratio(numerator: Times, denominator: Times, seed: int = 0) -> Ratio:
    """The median of numerator_i / denominator_i, both (pairs,), with seeded intervals.

    The statistic is the median of the log ratio, so that a / b and b / a agree; intervals are
    percentiles of its 2,000 bootstrap resamples. Of few pairs, these end with the least and the
    greatest, which hold the median less often than they say: the intervals then are as wide as
    Student's of the mean of the logarithms. One pair has no interval but itself.
    """
    logs = np.log(numerator) - np.log(denominator)
    medians = row_medians(logs[resamples(len(logs), random.Random(seed))])  # noqa: S311
    low99, low95, high95, high99 = np.percentile(medians, [0.5, 2.5, 97.5, 99.5])
    return Ratio(
        median=float(np.exp(np.median(logs))),
        ci95=_of_few(logs, (float(low95), float(high95)), 0.95),
        ci99=_of_few(logs, (float(low99), float(high99)), 0.99),
        pairs=len(logs),
    )


_FEWEST = {0.95: 6, 0.99: 8}
"""Share -> the fewest observations whose whole range holds the median so often: 1 - 2 / 2^n."""


def _of_few(logs: Times, ends: tuple[float, float], share: float) -> tuple[float, float]:
    """The interval of a ratio from that of its logarithm, wide enough for few observations."""
    low, high = ends
    n = len(logs)
    if 1 < n < _FEWEST[share]:
        mean = float(logs.mean())
        half = student_t(n - 1, share) * float(logs.std(ddof=1)) / math.sqrt(n)
        low, high = min(low, mean - half), max(high, mean + half)
    return math.exp(low), math.exp(high)


def resamples(n: int, generator: random.Random) -> NDArray[np.intp]:
    """Which of n observations each of the bootstrap's resamples has: (RESAMPLES, n).

    The standard library's generator: a report would import numpy's for nothing else. The remainder
    of 2^32 numbers is as good as uniform for the n that there are.
    """
    words = np.frombuffer(generator.randbytes(4 * RESAMPLES * n), "<u4")
    return (words % n).astype(np.intp).reshape(RESAMPLES, n)


def row_medians(rows: Times) -> Times:
    """The median of each row of (rows, n), n >= 1, which is sorted in place.

    The same numbers as numpy's median, and sooner: a report takes many.
    """
    rows.sort(axis=1)
    n = rows.shape[1]
    medians: Times = (rows[:, (n - 1) // 2] + rows[:, n // 2]) / 2
    return medians


def spread(samples: Times) -> float:
    """p90 / p50: 1.0 on a silent machine; what an engine's own timings say of the noise."""
    return percentile(samples, 90) / percentile(samples, 50)


@dataclass(frozen=True)
class Estimate:
    """A mean over images with its 95 % interval (None for one image), and the values."""

    mean: float
    ci95: tuple[float, float] | None
    values: list[float] = field(repr=False)

    def as_dict(self) -> JsonDict:
        """Plain values, for reports, without the ones of each image."""
        return {"mean": self.mean, "ci95": self.ci95 and list(self.ci95)}


def estimate(
    values: Sequence[float], possible: tuple[float, float] = (-math.inf, math.inf)
) -> Estimate:
    """The mean and Student's t 95 % interval, which one value has not.

    Args:
        values: One of each image.
        possible: The least and the greatest value that there can be: the interval ends there, where
            that of a few values would go on.
    """
    n, mean = len(values), math.fsum(values) / len(values)
    if n < 2:
        return Estimate(mean, None, list(values))
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    half = student_t(n - 1) * math.sqrt(variance / n)
    low, high = max(mean - half, possible[0]), min(mean + half, possible[1])
    return Estimate(mean, (low, high), list(values))


_NORMAL = {0.95: 1.959963984540054, 0.99: 2.5758293035489004}
"""Half an interval's width of the normal distribution: the limit of Student's, and the least."""


@cache
def student_t(freedom: int, share: float = 0.95) -> float:
    """Half the width of an interval that holds a share of Student's distribution.

    scipy has it as well, but reports ask for it where nothing else of scipy is needed, and its
    import takes longer than the rest of a report. Found by Newton's method, which comes from below
    here and so never goes past the root.

    Args:
        freedom: Degrees of freedom, 1 or more.
        share: 0.95 or 0.99.
    """
    log_height = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)
    height = math.exp(log_height) / math.sqrt(freedom * math.pi)
    t = _NORMAL[share]
    for _ in range(100):
        density = height * (1 + t * t / freedom) ** (-(freedom + 1) / 2)
        step = (share - _share_within(t, freedom)) / (2 * density)
        t += step
        if abs(step) < 1e-14 * t:
            break
    return t


def _share_within(t: float, freedom: int) -> float:
    """How much of Student's distribution lies in [-t, t] (Abramowitz and Stegun 26.7.3, 26.7.4)."""
    angle = math.atan2(t, math.sqrt(freedom))
    sine, square = math.sin(angle), math.cos(angle) ** 2
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    terms = [] if freedom == 1 else [term]
    for place in range(2 + odd, freedom, 2):  # each term is the one before by (place-1)/place
        term *= square * (place - 1) / place
        terms.append(term)
    total = sine * math.fsum(terms)
    return 2 / math.pi * (angle + total) if odd else total
