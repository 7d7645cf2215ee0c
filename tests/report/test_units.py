"""Figures as text, at the edges of their units."""

import pytest

from diffc.report.quality_rows import quality_rows
from diffc.report.units import count, factor, milliseconds, rate, seconds, standard_error


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (999, "999"),
        (999.9, "1 k"),
        (4435393, "4.44 M"),
        (999.6e6, "1 G"),
        (2.5e12, "2.5 T"),
    ],
)
def test_counts_never_take_an_exponent(value, text):
    assert count(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.98, "0.98x"), (9.994, "9.99x"), (9.996, "10.0x"), (99.94, "99.9x"), (110.06, "110x"),
     (1934, "1,934x")],
)  # fmt: skip
def test_factors_have_three_digits_and_never_an_exponent(value, text):
    assert factor(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (7.314, "7.31 ms"), (999.7, "1000 ms"), (1034.6, "1035 ms")]
)
def test_milliseconds(value, text):
    assert milliseconds(value) == text


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.04, "0.0 s"), (59.94, "59.9 s"), (59.96, "1 min 00 s"), (119.7, "2 min 00 s"),
     (3605, "60 min 05 s")],
)  # fmt: skip
def test_seconds_are_never_sixty(value, words):
    assert seconds(value) == words


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (50.83, "50.8"), (9.996, "10.0"), (1.0, "1.00"), (1.003, "1.00"), (0.9, "0.9"),
     (0.0432, "0.0432")],
)  # fmt: skip
def test_rates_keep_their_digits(value, text):
    assert rate(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.5812, "0.58"), (12.3, "12"), (99.7, "100"), (961.4, "961")]
)
def test_standard_errors_never_take_an_exponent(value, text):
    assert standard_error(value) == text


@pytest.mark.parametrize(
    ("value", "words"), [(-0.2304, "0.230 ± 0.58 nearer"), (3384.0, "3384.000 ± 0.58 further")]
)
def test_a_smaller_distance_is_nearer_and_never_minus_further(value, words):
    figure = {"dense": 0.2, "compressed": 0.2 + value, "further": {"value": value, "se": 0.58}}
    (row,) = quality_rows({"own-frechet": figure})
    assert row[-1] == words
