"""The rule against simulated times whose truth is known, and its three verdicts."""

from dataclasses import replace

import numpy as np
import pytest

from diffc.gate.figures import judged
from diffc.gate.rule import (
    Decision,
    RuleOptions,
    compare_calls,
    decide,
    mean_ratio,
    same_calls,
    slower,
    unequal,
    unpaired_ratio,
)
from diffc.measure.latency import Timings
from diffc.measure.statistics import Ratio
from diffc_export.events import drain


def ratio(low, high):
    return Ratio(median=(low + high) / 2, ci95=(low, high), ci99=(low, high), pairs=20)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(1.06, 1.2, "regressed"), (0.9, 1.049, "pass"), (1.04, 1.06, "inconclusive"),
     (0.5, 0.9, "pass"), (1.0, 1.05, "inconclusive"), (1.05, 1.2, "inconclusive")],
)  # fmt: skip
def test_the_three_verdicts(low, high, verdict):
    assert slower(ratio(low, high), 0.05) == verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.96, 1.04, "pass"), (0.94, 1.0, "inconclusive"), (1.0, 1.06, "inconclusive")],
)
def test_a_against_a_is_two_sided(low, high, verdict):
    assert unequal(ratio(low, high), 0.05) == verdict


def noisy_look(seed, factor, common=0.3, own=0.06, spikes=0.1):
    """Looks at times that share a drift, wobble by themselves, and spike now and then."""
    generator = np.random.default_rng(seed)

    def times(shared, pairs):
        alone = generator.normal(0, own, (pairs, 1))
        spike = (generator.random((pairs, 1)) < spikes) * generator.exponential(1.0, (pairs, 1))
        return np.exp(shared + alone + spike)

    def look(pairs, _number):
        if False:
            yield
        shared = np.cumsum(generator.normal(0, common / 10, (pairs, 1)), axis=0)
        samples = {"candidate": factor * times(shared, pairs), "baseline": times(shared, pairs)}
        return Timings(samples, {}, 0.0, True, 0)

    return look


def verdicts(factor, trials=200):
    found = [
        drain(decide(noisy_look(seed, factor), RuleOptions(seed=seed))) for seed in range(trials)
    ]
    return [decision.verdict for decision in found]


def test_an_unchanged_engine_raises_no_alarm():
    found = verdicts(1.0)
    assert found.count("regressed") <= 2
    assert found.count("pass") >= 190


def test_ten_percent_is_found():
    assert verdicts(1.10).count("regressed") >= 190


@pytest.mark.slow
def test_eight_percent_is_seldom_passed():
    assert verdicts(1.08).count("pass") <= 20


def test_at_the_limit_it_doubles_to_the_cap():
    asked = []

    def look(pairs, number):
        if False:
            yield
        asked.append(pairs)
        rough = np.tile([0.8, 1.4], pairs)[:pairs, None]
        return Timings({"candidate": 1.05 * rough, "baseline": np.ones_like(rough)}, {}, 0, True, 0)

    decision = drain(decide(look, RuleOptions(pairs=20, most_pairs=100)))
    assert decision.verdict == "inconclusive"
    assert asked == [20, 20, 40, 20]
    assert decision.ratio.pairs == 100 and len(decision.baseline) == 100


def test_no_new_look_after_the_time_is_up():
    wide = noisy_look(0, 1.05, own=3.0)
    decision = drain(decide(wide, RuleOptions(seconds=1e-9)))
    assert decision.verdict == "inconclusive" and decision.ratio.pairs == 20


def test_a_few_pairs_decide_nothing():
    def look(pairs, number):
        if False:
            yield
        times = {"candidate": np.full((7, 1), 2.0), "baseline": np.ones((7, 1))}
        return Timings(times, {}, 0.0, True, 0)

    assert drain(decide(look, RuleOptions(most_pairs=7))).verdict == "inconclusive"
    assert drain(decide(look, RuleOptions(most_pairs=14))).verdict == "regressed"


@pytest.mark.parametrize("pairs", [3, 7, 8])
@pytest.mark.parametrize(("low", "high", "verdict"), [(1.2, 1.3, "regressed"), (0.9, 1.0, "pass")])
def test_a_figure_of_few_pairs_is_inconclusive(pairs, low, high, verdict):
    """Slow loops: the seconds of a look end with three pairs of them."""
    few = replace(ratio(low, high), pairs=pairs)
    same = Decision("pass", ratio(0.99, 1.01), np.ones(20), np.ones(20), np.ones((20, 2)), 1.0)
    assert judged(few, same, 0.05) == (verdict if pairs >= 8 else "inconclusive")


@pytest.mark.slow
def test_a_machine_that_changes_by_itself_is_unfit():
    generator = np.random.default_rng(0)
    wild = lambda: float(np.exp(generator.normal(0, 2.0)))  # noqa: E731
    decision = drain(same_calls(wild, wild, RuleOptions(most_pairs=80)))
    assert decision.verdict == "unfit"
    assert drain(same_calls(lambda: 0.02, lambda: 0.02, RuleOptions())).verdict == "pass"


def test_the_same_seed_gives_the_same_decision(monkeypatch):
    # a warm-up by the clock draws as many of the fake's numbers as it has time for
    monkeypatch.setattr("diffc.gate.rule.FIRST_WARM_UP", 0.0)

    def decision():
        generator = np.random.default_rng(3)
        call = lambda: 0.02 * float(np.exp(generator.normal(0, 0.2)))  # noqa: E731
        return drain(compare_calls(call, call, RuleOptions(seed=5)))

    first, second = decision(), decision()
    assert first.ratio == second.ratio


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mean", "unpaired"])
def test_intervals_cover_the_truth(kind):
    inside = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        times = np.exp(generator.normal(0, 0.2, (100, 2))) * [1.1, 1.0]
        if kind == "mean":
            found = mean_ratio(times, seed)
            assert found.median == pytest.approx(times[:, 0].mean() / times[:, 1].mean())
        else:
            found = unpaired_ratio(times[:, 0], times[:, 1], seed)
            assert found.median == pytest.approx(
                np.median(times[:, 0]) / np.median(times[:, 1]), rel=1e-2
            )
        inside += found.ci99[0] <= 1.1 <= found.ci99[1]
    assert inside >= 190
