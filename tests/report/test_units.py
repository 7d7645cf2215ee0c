"""Figures as text, at the edges of their units."""

import pytest

from diffc.report.units import count, milliseconds, seconds


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
