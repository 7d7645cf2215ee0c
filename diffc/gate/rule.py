"""Deciding "slower" on a noisy machine: the sequential rule.

Pairs of times, both engines in one process, AB or BA at random. The statistic is the median of
log(candidate / baseline); its interval is a seeded 99 % bootstrap (diffc.measure.statistics).

    REGRESSED     the interval's low end is above 1 + d
    PASS          its high end is below 1 + d
    otherwise     as many pairs again, up to a cap of pairs and of seconds: INCONCLUSIVE
                  (so are fewer than 8 pairs, whatever they say)

First the baseline against itself, loaded twice: until the interval lies inside
[1 / (1 + d), 1 + d] nothing can be judged here, and at the cap the machine is UNFIT.

Sources: paired ("duet") benchmarking, arXiv 2001.05811; Chromium's three verdicts (Pinpoint).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np

from diffc.measure.latency import Call, LatencyOptions, Timings, interleaved
from diffc.measure.statistics import Ratio, Times, paired_ratio, resamples, row_medians
from diffc_export.events import Progress, Work, map_events

Verdict = Literal["pass", "regressed", "inconclusive", "unfit", "absent", "reported"]
"""absent: it could not be measured. reported: measured, and no limit is set."""

FIRST_WARM_UP = 2.0
FEWEST_PAIRS = 8
"""Of fewer, even the whole range covers the median with less than 99 %: 1 - 2 / 2^8 = 99.2 %."""


@dataclass(frozen=True)
class RuleOptions:
    """How long the rule measures.

    Attributes:
        limit: d, as a share (0.05).
        pairs: Of the first look; doubled at each further look.
        most_pairs: The rule gives up at so many pairs.
        seconds: No new look begins after so many.
        seed: Of the order within pairs and of the bootstrap.
    """

    limit: float = 0.05
    pairs: int = 20
    most_pairs: int = 320
    seconds: float = 60.0
    seed: int = 0


@dataclass(frozen=True)
class Decision:
    """The rule's decision on one pair of engines.

    Attributes:
        verdict: The verdict.
        ratio: Of candidate over baseline.
        baseline: Every single time in seconds.
        candidate: Every single time in seconds.
        paired: (pairs, 2), candidate then baseline, in seconds.
        seconds: How long the decision took.
    """

    verdict: Verdict
    ratio: Ratio
    baseline: Times
    candidate: Times
    paired: Times
    seconds: float


Look = Callable[[int, int], Work[Timings]]
"""(pairs, number of the look) -> times of "candidate" and "baseline"."""


def slower(ratio: Ratio, limit: float) -> Verdict:
    """Judge whether the candidate is slower by its interval: regressed, pass or inconclusive.

    Of fewer pairs than ``FEWEST_PAIRS``, such as of slow loops, no interval says anything.
    """
    if ratio.pairs < FEWEST_PAIRS:
        return "inconclusive"
    low, high = ratio.ci99
    if low > 1 + limit:
        return "regressed"
    return "pass" if high < 1 + limit else "inconclusive"


def unequal(ratio: Ratio, limit: float) -> Verdict:
    """Judge A against A: pass when the interval lies inside [1 / (1 + d), 1 + d]."""
    low, high = ratio.ci99
    return "pass" if 1 / (1 + limit) < low and high < 1 + limit else "inconclusive"


def decide(
    look: Look, options: RuleOptions, judge: Callable[[Ratio, float], Verdict] = slower
) -> Work[Decision]:
    """Take pairs of times until ``judge`` decides, or ``options`` allow no more.

    Args:
        look: Takes the pairs, such as ``looks`` returns it.
        options: How long to measure, and the limit.
        judge: Ratio and limit -> verdict; ``inconclusive`` takes more pairs.

    Yields:
        The number of pairs that earlier looks took, out of the most.
    """
    start = time.perf_counter()
    taken: list[Timings] = []
    pairs, wanted = 0, options.pairs
    while True:
        count_in_pairs = partial(_in_pairs, pairs, options.most_pairs)
        taken.append((yield from map_events(look(wanted - pairs, len(taken)), count_in_pairs)))
        decision = _decision(taken, options, judge, time.perf_counter() - start)
        pairs = decision.ratio.pairs
        if decision.verdict != "inconclusive" or pairs >= options.most_pairs:
            return decision
        if decision.seconds >= options.seconds:
            return decision
        wanted = min(2 * pairs, options.most_pairs)


def _in_pairs(before: int, most: int, event: Progress) -> Progress:
    """An event of a look, counted in the pairs of all looks."""
    return Progress(before, most, event.note)


def _decision(
    taken: list[Timings],
    options: RuleOptions,
    judge: Callable[[Ratio, float], Verdict],
    seconds: float,
) -> Decision:
    sides = {
        name: np.concatenate([timings.round_medians(name) for timings in taken])
        for name in ("candidate", "baseline")
    }
    ratio = paired_ratio(sides["candidate"], sides["baseline"], options.seed)
    return Decision(
        verdict=judge(ratio, options.limit) if ratio.pairs >= FEWEST_PAIRS else "inconclusive",
        ratio=ratio,
        baseline=np.concatenate([timings.times("baseline") for timings in taken]),
        candidate=np.concatenate([timings.times("candidate") for timings in taken]),
        paired=np.column_stack([sides["candidate"], sides["baseline"]]),
        seconds=seconds,
    )


def looks(candidate: Call, baseline: Call, options: RuleOptions) -> Look:
    """Return a function that times two calls in turn, for ``decide``.

    Its first look warms up for ``FIRST_WARM_UP`` seconds; later looks do not.

    Args:
        candidate: The call that may be slower.
        baseline: The call that it is compared with.
        options: A look takes at most ``seconds``; its seed is ``seed`` plus its number.
    """
    calls = {"candidate": candidate, "baseline": baseline}

    def look(pairs: int, number: int) -> Work[Timings]:
        timing = LatencyOptions(
            rounds=pairs,
            seconds=0.0,
            most_seconds=options.seconds,
            warmup_seconds=FIRST_WARM_UP if number == 0 else 0.0,
            seed=options.seed + number,
        )
        return interleaved(calls, timing)

    return look


def compare_calls(candidate: Call, baseline: Call, options: RuleOptions) -> Work[Decision]:
    """Decide whether ``candidate`` is slower than ``baseline``."""
    return (yield from decide(looks(candidate, baseline, options), options))


def same_calls(first: Call, again: Call, options: RuleOptions) -> Work[Decision]:
    """Compare a call with itself: pass, or unfit where this machine cannot tell ``limit``."""
    decision = yield from decide(looks(again, first, options), options, unequal)
    if decision.verdict == "inconclusive":
        return replace(decision, verdict="unfit")
    return decision


def unpaired_ratio(candidate: Times, baseline: Times, seed: int = 0) -> Ratio:
    """The ratio of two medians whose times were not taken together, with bootstrap intervals.

    Weaker than a paired ratio: whatever changed between the two runs is in it.

    Args:
        candidate: (n,) seconds.
        baseline: (m,) seconds.
        seed: Of the bootstrap.
    """
    generator = random.Random(seed)  # noqa: S311 - not for secrets
    logs = [np.log(candidate), np.log(baseline)]
    medians = [row_medians(log[resamples(len(log), generator)]) for log in logs]
    low99, low95, high95, high99 = np.exp(
        np.percentile(medians[0] - medians[1], [0.5, 2.5, 97.5, 99.5])
    )
    return Ratio(
        median=float(np.exp(np.median(logs[0]) - np.median(logs[1]))),
        ci95=(float(low95), float(high95)),
        ci99=(float(low99), float(high99)),
        pairs=min(map(len, logs)),
    )


def mean_ratio(paired: Times, seed: int = 0) -> Ratio:
    """The ratio of the means of pairs (n, 2), candidate over baseline; pairs are resampled."""
    n = len(paired)
    draws = resamples(n, random.Random(seed))  # noqa: S311 - not for secrets
    sums = paired[draws].sum(axis=1)
    ratios = sums[:, 0] / sums[:, 1]
    low99, low95, high95, high99 = np.percentile(ratios, [0.5, 2.5, 97.5, 99.5])
    return Ratio(
        median=float(paired[:, 0].sum() / paired[:, 1].sum()),
        ci95=(float(low95), float(high95)),
        ci99=(float(low99), float(high99)),
        pairs=n,
    )
