"""The rows of bench.fp32_layers, of layers whose squared errors add up."""

import math

import pytest

from bench.fp32_layers import Once, both_ways

LAYERS = [f"layer {i:02}" for i in range(64)]


class Additive:
    """Trials of two rows, in which two layers are bad."""

    layers, plain, calls = LAYERS, None, 0

    def error(self, kept, _limit=math.inf, rows=None):
        self.calls += rows or 2
        sizes = {name: 0.5 if name in (LAYERS[3], LAYERS[40]) else 0.01 for name in LAYERS}
        return math.hypot(*(size for name, size in sizes.items() if name not in kept))

    def sort_rows(self):
        return self.error([])


def test_both_ways_are_counted_alike():
    rows = [
        row
        for share in (0.8, 0.4)
        for row in both_ways("x", Once(Additive()), dict.fromkeys(LAYERS, 1.0), share)
    ]
    assert [row["by"] for row in rows] == ["layers", "groups"] * 2
    assert [row["kept"] for row in rows] == [1, 1, 2, 2]
    assert rows[0]["kept_work"] == pytest.approx(1 / 64)
    assert all(row["error"] <= row["share"] * row["whole"] for row in rows)
    for alone, groups in (rows[:2], rows[2:]):
        assert alone["calls"] > 2 * len(LAYERS) > groups["calls"]


def test_what_is_asked_again_is_counted_and_not_run():
    trials = Additive()
    once = Once(trials)
    assert once.error(LAYERS[:5]) == once.error(LAYERS[4::-1])
    assert (once.calls, trials.calls) == (4, 2)
