"""The statistics against their definitions, and against what is known of the samples."""

import math
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffc.measure.results import Speedup
from diffc.measure.statistics import (
    RESAMPLES,
    paired_ratio,
    percentile,
    resamples,
    row_medians,
    spread,
    student_t,
)


def trtexec(samples, p):
    """trtexec's rule in whole numbers: drop (100 - p) n // 100 from the top."""
    ordered = sorted(samples)
    dropped = ((100 - p) * len(ordered)) // 100
    return ordered[max(len(ordered) - 1 - dropped, 0)]


@given(
    st.lists(st.floats(1e-6, 10), min_size=1, max_size=300),
    st.sampled_from([50, 75, 90, 95, 99]),
)
def test_percentile_is_trtexecs(samples, p):
    assert percentile(np.array(samples), p) == trtexec(samples, p)


def test_percentile_of_ten():
    assert percentile(np.arange(1.0, 11.0), 90) == 9.0
    assert percentile(np.array([3.0]), 99) == 3.0


def test_ratio_finds_a_known_factor_in_noise_that_both_share():
    generator = np.random.default_rng(0)
    noise = generator.lognormal(0, 0.5, 60)  # e.g. the machine at half speed for a while
    dense = 2.0 * noise * generator.lognormal(0, 0.02, 60)
    compressed = noise * generator.lognormal(0, 0.02, 60)
    found = paired_ratio(dense, compressed)
    assert found.median == pytest.approx(2.0, rel=0.02)
    assert found.ci99[0] < found.ci95[0] < 2.0 < found.ci95[1] < found.ci99[1]
    assert found.ci99[1] / found.ci99[0] < 1.05
    assert found.pairs == 60


@given(st.integers(1, 400), st.integers(0, 2**32 - 1))
def test_medians_of_rows_are_numpys(n, seed):
    rows = np.random.default_rng(seed).lognormal(size=(20, n))
    assert np.array_equal(row_medians(rows.copy()), np.median(rows, axis=1))


@pytest.mark.parametrize("n", [1, 2, 7, 320])
def test_resamples_take_each_observation_as_often(n):
    taken = resamples(n, random.Random(4))
    assert taken.shape == (RESAMPLES, n)
    counts = np.bincount(taken.ravel(), minlength=n)
    assert len(counts) == n
    off = np.abs(counts - RESAMPLES) / math.sqrt(RESAMPLES)  # each is Poisson's, nearly
    assert off.max() < 4.5


def test_ratio_is_seeded_and_reverses():
    generator = np.random.default_rng(1)
    a, b = generator.lognormal(size=41), generator.lognormal(size=41)
    assert paired_ratio(a, b, seed=3) == paired_ratio(a, b, seed=3)
    assert paired_ratio(a, b).median == pytest.approx(1 / paired_ratio(b, a).median)


def test_interval_covers_the_truth_as_often_as_it_says():
    """Over 200 repetitions of 40 pairs the 95 % interval holds the true ratio 88 to 100 % of them.

    (Binomial with p = 0.95, n = 200: fewer than 88 % has a probability below 1e-4.)
    """
    generator = np.random.default_rng(2)
    held = 0
    for _ in range(200):
        dense = 1.5 * generator.lognormal(0, 0.1, 40)
        low, high = paired_ratio(dense, generator.lognormal(0, 0.1, 40)).ci95
        held += low <= 1.5 <= high
    assert held >= 176


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_few_pairs_show_no_difference_that_is_not_there(n):
    """Over 300 repetitions of n pairs of equal times, the intervals seldom exclude 1.

    (Binomial with p = 0.05, n = 300: more than 27 has a probability below 1e-3; with 0.01, 10.)
    """
    generator = np.random.default_rng(3)
    outside = {"ci95": 0, "ci99": 0}
    for _ in range(300):
        measured = paired_ratio(generator.lognormal(0, 0.02, n), np.ones(n))
        for name in outside:
            low, high = getattr(measured, name)
            outside[name] += not low <= 1 <= high
    assert outside["ci95"] <= 27 and outside["ci99"] <= 10


def test_few_pairs_still_show_a_large_difference():
    dense = 49.6 * np.random.default_rng(4).lognormal(0, 0.02, 4)
    measured = Speedup.of(paired_ratio(dense, np.ones(4)))
    assert measured.is_shown and 45 < measured.ci95[0] < 49.6 < measured.ci95[1] < 55
    assert not Speedup.of(paired_ratio(dense[:1], np.ones(1))).is_shown


def test_spread_is_one_when_nothing_varies():
    assert spread(np.ones(20)) == 1.0
    assert math.isclose(spread(np.concatenate([np.ones(80), np.full(20, 3.0)])), 3.0)


def test_students_t_is_scipys():
    from scipy.special import stdtrit

    for freedom in (*range(1, 60), 99, 100, 999, 4096):
        assert student_t(freedom) == pytest.approx(float(stdtrit(freedom, 0.975)), rel=1e-12)
        assert student_t(freedom, 0.99) == pytest.approx(float(stdtrit(freedom, 0.995)), rel=1e-12)


def test_an_interval_needs_no_scipy():
    """A report of a finished run asks for intervals, and scipy takes longer than the report."""
    script = """
import sys
from diffc.measure.statistics import estimate
estimate([1.0, 2.0, 4.0])
sys.exit("scipy" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
