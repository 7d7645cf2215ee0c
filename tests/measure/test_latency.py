"""Interleaving: who is called when, how long, and what is kept."""

import itertools
import time
from collections import Counter
from types import SimpleNamespace

import pytest

from diffc.measure import latency
from diffc.measure.latency import LatencyOptions, against_itself, interleaved
from diffc_export.events import drain

QUICK = LatencyOptions(rounds=12, seconds=0.0, warmup_seconds=0.05)


class Clock:
    """Calls that note their order and give times that they are told."""

    def __init__(self, **seconds):
        self.order = []
        self.calls = {name: self._call(name, value) for name, value in seconds.items()}

    def _call(self, name, seconds):
        def call():
            self.order.append(name)
            return 10 * seconds if self.order.count(name) == 1 else seconds

        return call


def test_first_call_is_kept_apart():
    clock = Clock(a=0.2, b=0.1)
    timings = drain(interleaved(clock.calls, QUICK))
    assert timings.first == {"a": pytest.approx(2.0), "b": pytest.approx(1.0)}
    assert timings.times("a").max() == 0.2
    assert timings.ratio("a", "b").median == pytest.approx(2.0)


def test_every_round_has_each_call_once_in_a_varying_order():
    clock = Clock(a=0.2, b=0.1)
    drain(interleaved(clock.calls, QUICK))
    rounds = list(zip(clock.order[-24::2], clock.order[-23::2], strict=True))
    assert {tuple(sorted(pair)) for pair in rounds} == {("a", "b")}
    assert set(rounds) == {("a", "b"), ("b", "a")}


def test_short_calls_are_repeated_and_all_times_kept():
    clock = Clock(short=0.004, long=0.05)
    timings = drain(interleaved(clock.calls, QUICK))
    assert timings.samples["short"].shape == (12, 3)
    assert timings.samples["long"].shape == (12, 1)
    assert timings.round_medians("short").shape == (12,)
    assert timings.percentiles_ms("short")["n"] == 36
    assert timings.percentiles_ms("short")["p50"] == pytest.approx(4.0)


def test_beside_a_long_call_short_ones_are_repeated_for_a_tenth_of_it():
    clock = Clock(two_steps=0.016, one_step=0.004, fifty_steps=0.6)
    samples = drain(interleaved(clock.calls, QUICK)).samples
    assert samples["two_steps"].shape == (12, 4)
    assert samples["one_step"].shape == (12, 15)
    assert samples["fifty_steps"].shape == (12, 1)


def test_warm_up_waits_until_times_agree():
    slow = itertools.chain([0.1] + [0.09] * 6 + [0.05] * 5, itertools.repeat(0.01))
    timings = drain(interleaved({"a": lambda: next(slow)}, QUICK))
    assert timings.steady
    assert timings.times("a").max() == 0.01


def test_warm_up_outlasts_a_clock_that_rises_late():
    """A millisecond's engine agrees with itself long before the processor's clock has risen."""
    begin = time.perf_counter()

    def call() -> float:
        return 0.002 if time.perf_counter() - begin < 0.15 else 0.001

    timings = drain(interleaved({"a": call}, LatencyOptions(rounds=20, seconds=0.0)))
    assert timings.warmup_seconds >= 0.2 and timings.steady
    assert timings.times("a").max() == 0.001


def test_a_clock_that_reads_nothing_is_no_error():
    timings = drain(interleaved({"a": lambda: 0.0}, LatencyOptions(rounds=3, seconds=0.0)))
    assert (timings.times("a") == 0.0).all()


def test_times_that_never_agree_are_said_to_be_unsteady():
    up = iter(1.3**i for i in range(10_000))
    options = LatencyOptions(rounds=3, seconds=0.0, warmup_seconds=0.0)
    assert not drain(interleaved({"a": lambda: next(up)}, options)).steady


def test_at_least_the_seconds_asked_for(monkeypatch):
    """The last progress has them too, on a clock that goes on with every look at it."""
    ticks = itertools.count(step=1e-3)
    clock = SimpleNamespace(perf_counter=lambda: next(ticks), sleep=lambda _: None)
    monkeypatch.setattr(latency, "time", clock)
    options = LatencyOptions(rounds=3, seconds=0.3, warmup_seconds=0.01)
    events = []
    work = interleaved({"a": lambda: 0.002}, options)
    try:
        while True:
            event = next(work)
            events += [event] if event.note.startswith("round") else []
    except StopIteration as end:
        timings = end.value
    before, last = (event.done for event in events[-2:])
    assert before < 0.3 <= last
    assert len(timings.samples["a"]) == len(events) > 3
    assert all(event.total == pytest.approx(0.3) for event in events)


def test_the_cap_ends_it():
    options = LatencyOptions(rounds=10**9, seconds=10**9, most_seconds=0.05, warmup_seconds=0.01)
    assert len(drain(interleaved(Clock(a=1e-9).calls, options)).samples["a"]) >= 3


def test_order_is_seeded():
    first, second = Clock(a=1.0, b=1.0), Clock(a=1.0, b=1.0)
    drain(interleaved(first.calls, QUICK))
    drain(interleaved(second.calls, QUICK))
    assert first.order[-24:] == second.order[-24:]
    assert Counter(first.order[-24:]) == {"a": 12, "b": 12}


def test_a_call_against_itself_is_near_one():
    assert drain(against_itself(lambda: 1.0, QUICK)).median == 1.0


def test_after_a_call_that_spins_comes_a_rest_and_a_call_that_does_not_count():
    """A pool that spins after its calls must not meet the next engine, nor a cold cache count."""
    began: list[tuple[str, float]] = []

    def call(name: str):
        def run() -> float:
            began.append((name, time.perf_counter()))
            # which call it was, after the point; long enough for one call a turn
            return 0.02 + 1e-6 * len(began)

        return run

    options = LatencyOptions(rounds=6, seconds=0.0, warmup_seconds=0.0)
    calls = {name: call(name) for name in ("spins", "b", "c")}
    timings = drain(interleaved(calls, options, {"spins": 0.01}))
    counted = {round(1e6 * (t - 0.02)) - 1 for name in calls for t in timings.times(name)}
    rested = 0
    for i, ((before, then), (now, at)) in enumerate(itertools.pairwise(began), 1):
        if i >= min(counted) and before == "spins" != now:
            assert at - then >= 0.01
            assert i not in counted and i + 1 in counted and began[i + 1][0] == now
            rested += 1
    assert rested >= 5 and len(counted) == 18
    others = [i for i in range(min(counted), len(began)) if i not in counted]
    assert len(others) == rested  # no call is wasted where nothing spun


def test_a_long_call_warms_itself_after_a_rest():
    """Of a loop of half a second, cold caches cost a thousandth: no second one is run for them."""
    runs: Counter[str] = Counter()

    def call(name: str, seconds: float):
        def run() -> float:
            runs[name] += 1
            return seconds

        return run

    calls = {"spins": call("spins", 1.0), "long": call("long", 0.5), "short": call("short", 0.05)}
    first = {name: run() for name, run in calls.items()}
    options = LatencyOptions(rounds=20, seconds=0.0, warmup_seconds=0.0)
    drain(interleaved(calls, options, {"spins": 1e-4}, first))
    assert runs["spins"] == runs["long"] == 20 + 1  # the rounds', and the first
    # two a round, for a tenth of the longest; one says how long it is; one more after each rest
    assert 40 + 2 < runs["short"] < 60 + 2


def test_a_call_that_has_run_needs_no_warm_up_where_none_is_given_time():
    """Its length alone is asked, and of a long call the first run said that."""
    clock = Clock(long=0.02, short=0.006)
    first = {name: call() for name, call in clock.calls.items()}
    options = LatencyOptions(rounds=4, seconds=0.0, warmup_seconds=0.0)
    timings = drain(interleaved(clock.calls, options, first=first))
    assert Counter(clock.order) == {"long": 1 + 4, "short": 1 + 1 + 4 * 4}
    assert timings.steady is None and timings.first == first
    assert timings.times("short").max() == 0.006
