"""The ladder's factors are those that are there, and they multiply up to the whole."""

import pytest

from diffc.errors import RequestError
from diffc.events import drain
from diffc.measure.compare import MeasureOptions
from diffc.measure.explain import Step, explain
from diffc.measure.latency import LatencyOptions

QUICK = MeasureOptions(latency=LatencyOptions(rounds=15, seconds=0.0, warmup_seconds=0.1))


def test_factors_are_found_and_multiply_up(engines):
    made = engines("fake")
    steps = [
        Step("dense", "", made["dense"]),
        Step("the same again", "nothing", made["dense"]),
        Step("compressed", "pruning", made["compressed"]),
    ]
    first, same, last = drain(explain(steps, 1, QUICK))
    assert first.over_previous is None
    assert same.over_previous.median == pytest.approx(1.0, rel=0.03)
    assert last.over_previous.median == pytest.approx(2.0, rel=0.03)
    whole = same.over_previous.median * last.over_previous.median
    assert last.over_first.median == pytest.approx(whole, rel=0.03)
    assert [r.cause for r in (first, same, last)] == ["", "nothing", "pruning"]


def test_rung_that_cannot_run_keeps_its_reason(engines):
    pytest.importorskip("tensorrt_rtx")
    from diffc.targets import machine

    if machine.gpus():
        pytest.skip("this machine has a GPU")
    fake, rtx = engines("fake"), engines("trt-rtx")
    steps = [
        Step("a", "", fake["dense"]),
        Step("b", "engine", rtx["dense"]),
        Step("c", "pruning", fake["compressed"]),
    ]
    a, b, c = drain(explain(steps, 1, QUICK))
    assert a.latency_ms and b.latency_ms is None and "no NVIDIA GPU" in b.absent
    assert c.over_previous.median == pytest.approx(2.0, rel=0.03)


def test_one_step_is_no_ladder(engines):
    with pytest.raises(RequestError, match="fewer than two"):
        drain(explain([Step("a", "", engines("fake")["dense"])], 1, QUICK))


def test_labels_must_differ(engines):
    step = Step("a", "", engines("fake")["dense"])
    with pytest.raises(RequestError, match="not unique"):
        drain(explain([step, step], 1, QUICK))
