"""The ladder's factors are those that are there, and they multiply up to the whole."""

import pytest

from diffc.errors import RequestError
from diffc.measure.engines import MeasureOptions
from diffc.measure.explain import Step, explain
from diffc.measure.latency import LatencyOptions
from diffc_export.events import drain

QUICK = MeasureOptions(latency=LatencyOptions(rounds=15, seconds=0.0, warmup_seconds=0.1))


def test_factors_are_found_and_multiply_up(engines):
    made = engines("fake")
    steps = [
        Step("dense", "", made["dense"]),
        Step("the same again", "nothing", made["dense"]),
        Step("compressed", "pruning", made["compressed"]),
    ]
    (ladder,) = drain(explain(steps, [1], QUICK))
    first, same, last = ladder.rungs
    assert first.over_previous is None
    assert same.over_previous.median == pytest.approx(1.0, rel=0.03)
    assert last.over_previous.median == pytest.approx(2.0, rel=0.03)
    whole = same.over_previous.median * last.over_previous.median
    assert last.over_first.median == pytest.approx(whole, rel=0.03)
    assert [r.cause for r in (first, same, last)] == ["", "nothing", "pruning"]


def test_rung_that_cannot_run_keeps_its_reason(engines):
    pytest.importorskip("tensorrt_rtx")
    from diffc_runtime import machine

    if machine.gpu.gpus():
        pytest.skip("this machine has a GPU")
    fake, rtx = engines("fake"), engines("trt-rtx")
    steps = [
        Step("a", "", fake["dense"]),
        Step("b", "engine", rtx["dense"]),
        Step("c", "pruning", fake["compressed"]),
    ]
    (ladder,) = drain(explain(steps, [1], QUICK))
    a, b, c = ladder.rungs
    assert a.latency_ms and b.latency_ms is None and "no NVIDIA GPU" in b.absent
    assert c.over_previous.median == pytest.approx(2.0, rel=0.03)


def test_one_step_is_no_ladder(engines):
    with pytest.raises(RequestError, match="fewer than two"):
        drain(explain([Step("a", "", engines("fake")["dense"])], [1], QUICK))


def test_labels_must_differ(engines):
    step = Step("a", "", engines("fake")["dense"])
    with pytest.raises(RequestError, match="not unique"):
        drain(explain([step, step], [1], QUICK))


def test_a_graph_is_credited_with_what_it_brings(engines):
    """The fake's calls take a quarter longer when they are not captured."""
    made = engines("fake")
    steps = [
        Step("dense", "engine", made["dense"], captured=False),
        Step("dense, captured", "graph capture", made["dense"]),
        Step("compressed, captured", "pruning", made["compressed"]),
    ]
    (ladder,) = drain(explain(steps, [1], QUICK))
    plain, captured, pruned = ladder.rungs
    assert captured.over_previous.median == pytest.approx(1.25, rel=0.03)
    assert pruned.over_previous.median == pytest.approx(2.0, rel=0.03)
    assert pruned.over_first.median == pytest.approx(2.5, rel=0.03)
    assert plain.latency_ms.p50 == pytest.approx(2.5, rel=0.03)


def test_each_batch_size_has_a_ladder(engines):
    made = engines("fake", batch=(1, 4))
    steps = [Step("dense", "", made["dense"]), Step("compressed", "pruning", made["compressed"])]
    one, four = drain(explain(steps, [1, 4], QUICK))
    assert (one.batch, four.batch, one.target) == (1, 4, "fake")
    assert four.rungs[0].latency_ms.p50 == pytest.approx(4 * one.rungs[0].latency_ms.p50, rel=0.03)
    assert one.noise.against_itself.median == pytest.approx(1.0, rel=0.03)


def test_a_reason_given_is_kept_and_the_rest_is_measured(engines):
    made = engines("fake")
    steps = [
        Step("torch", "", None, absent="torch is not installed"),
        Step("dense", "engine", made["dense"]),
        Step("compressed", "pruning", made["compressed"]),
    ]
    (ladder,) = drain(explain(steps, [1], QUICK))
    torch, dense, pruned = ladder.rungs
    assert torch.absent == "torch is not installed" and torch.latency_ms is None
    assert dense.over_first is None and pruned.over_first.median == pytest.approx(2.0, rel=0.03)


def test_a_target_that_captures_nothing_says_so(engines):
    pytest.importorskip("onnxruntime")
    made = engines("ort-cpu")
    steps = [
        Step("a", "", made["dense"]),
        Step("b", "graph capture", made["dense"], captured=False),
        Step("c", "pruning", made["compressed"]),
    ]
    (ladder,) = drain(explain(steps, [1], QUICK))
    assert "captures no graph" in ladder.rungs[1].absent
    assert ladder.rungs[2].over_previous is not None
