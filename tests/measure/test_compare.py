"""Dense against compressed, and anything against anything."""

import json
import time

import numpy as np
import pytest

from diffc.errors import OutOfMemory, RequestError, UnavailableError
from diffc.measure.compare import measure_loop, measure_target
from diffc.measure.engines import MeasureOptions
from diffc.measure.latency import LatencyOptions
from diffc.measure.loop import LoopOptions
from diffc.measure.statistics import percentile
from diffc_export.events import drain

QUICK = LatencyOptions(rounds=15, seconds=0.0, warmup_seconds=0.2)


def options(folders, **changed):
    references = {name: folder / "reference.safetensors" for name, folder in folders.items()}
    return MeasureOptions(
        **{"latency": QUICK, "memory": False, "references": references, **changed}
    )


def test_known_times_give_the_known_speedup(engines, folders):
    """The fake's times are 2 : 1 with 2 % of wobble, and 4 times as long at batch 4."""
    made = engines("fake", batch=(1, 4))
    one, four = drain(
        measure_target(made["dense"], made["compressed"], options(folders, references={}))
    )
    assert (one.batch, four.batch) == (1, 4)
    assert one.speedup.median == pytest.approx(2.0, rel=0.02)
    assert one.speedup.ci95[0] <= one.speedup.median <= one.speedup.ci95[1]
    assert one.efficiency == pytest.approx(1.0, rel=0.02)
    assert one.dense.latency_ms.p50 == pytest.approx(2.0, rel=0.02)
    assert four.dense.latency_ms.p50 == pytest.approx(8.0, rel=0.02)
    assert four.dense.throughput_per_s == pytest.approx(4 / 8e-3, rel=0.02)
    assert one.dense.spread < 1.05
    assert one.parity is None


def test_the_first_call_counts_from_inputs_in_hand(engines, folders, monkeypatch):
    """Where an engine compiles, allocates and captures as its inputs are bound, that is in it."""
    from diffc_export.targets.fake import FakeEngine

    bind = FakeEngine.bind

    def slow(self, inputs):
        time.sleep(0.05)
        return bind(self, inputs)

    monkeypatch.setattr(FakeEngine, "bind", slow)
    made = engines("fake")
    (one,) = drain(
        measure_target(made["dense"], made["compressed"], options(folders, references={}))
    )
    assert one.dense.first_call_ms >= 50 and one.compressed.first_call_ms >= 50
    assert one.dense.latency_ms.p50 == pytest.approx(2.0, rel=0.02)


def test_times_outlive_a_memory_probe_that_fails(engines, folders, monkeypatch):
    def killed(*_command):
        raise UnavailableError("the memory of it cannot be measured: exit status -9")

    monkeypatch.setattr("diffc.measure.memory._probed", killed)
    made = engines("fake")
    asked = options(folders, references={}, memory=True)
    (one,) = drain(measure_target(made["dense"], made["compressed"], asked))
    assert one.speedup.median == pytest.approx(2.0, rel=0.02)
    assert one.dense.memory.peak_bytes is None and one.dense.memory.engine_bytes > 0
    assert "exit status -9" in one.dense.memory.absent


def test_a_batch_that_memory_does_not_suffice_for_is_absent(engines, folders, monkeypatch):
    from diffc_export.targets.fake import FakeEngine

    bind = FakeEngine.bind

    def limited(self, inputs):
        if len(inputs["sample"]) > 1:
            raise OutOfMemory("out of GPU memory: 9.0 GiB asked for", asked=9 << 30, free=1)
        return bind(self, inputs)

    monkeypatch.setattr(FakeEngine, "bind", limited)
    made = engines("fake", batch=(1, 4))
    one, four = drain(
        measure_target(made["dense"], made["compressed"], options(folders, references={}))
    )
    assert one.absent is None and one.speedup.median == pytest.approx(2.0, rel=0.02)
    assert (four.batch, four.absent) == (4, "out of GPU memory: 9.0 GiB asked for")
    assert four.dense.latency_ms is None


def test_how_calls_were_run_is_in_the_details(engines, folders, monkeypatch):
    """What only the loaded engine knows: the clock, and whether its graph could be captured."""
    from diffc_export.targets.fake import FakeEngine

    made = engines("fake", batch=(1,))
    call = (made["dense"], made["compressed"], options(folders, references={}))
    (plain,) = drain(measure_target(*call))
    assert not {"timed_by", "captured", "not_captured"} & set(plain.details)
    bind = FakeEngine.bind

    def captured(self, inputs):
        small = self.info.source["macs"] < 2e9
        facts = {"captured": False, "not_captured": "a loop"} if small else {"captured": True}
        self.info = self.info.with_details(timed_by="GPU events", **facts)
        return bind(self, inputs)

    monkeypatch.setattr(FakeEngine, "bind", captured)
    (found,) = drain(measure_target(*call))
    said = {key: found.details[key] for key in ("timed_by", "captured", "not_captured")}
    assert said == {"timed_by": "GPU events", "captured": False, "not_captured": "a loop"}


def test_a_gpu_that_others_use_is_in_the_result(engines, folders, monkeypatch):
    from diffc.measure import engines as measured
    from diffc.report.speed import noise_words
    from diffc_runtime.machine import nvml

    monkeypatch.setattr(nvml, "busy", lambda: "process 3 holds 10.0 GiB of it")
    made = engines("fake", batch=(1,))
    call = (made["dense"], made["compressed"], options(folders, references={}))
    assert drain(measure_target(*call))[0].noise.gpu_busy is None  # engines on the processor
    monkeypatch.setattr(measured, "on_gpu", lambda name: True)
    noise = drain(measure_target(*call))[0].noise
    assert "the GPU was shared: process 3 holds 10.0 GiB of it" in noise_words(noise)


def test_raw_samples_give_the_percentiles_again(engines, folders):
    made = engines("fake")
    (found,) = drain(
        measure_target(made["dense"], made["compressed"], options(folders, references={}))
    )
    samples = np.array(found.dense.samples_ms)
    assert found.dense.latency_ms.n == len(samples)
    assert percentile(samples, 90) == pytest.approx(found.dense.latency_ms.p90, abs=1e-5)
    assert json.loads(found.model_dump_json())["dense"]["latency_ms"]["n"] == len(samples)


@pytest.mark.slow
def test_real_engines_are_measured_and_checked(engines, folders):
    pytest.importorskip("onnxruntime")
    made = engines("ort-cpu")
    (found,) = drain(
        measure_target(made["dense"], made["compressed"], options(folders, memory=True))
    )
    assert found.parity.passed and found.dense.parity.passed
    assert found.dense.latency_ms.p50 > 0 and found.speedup.pairs >= 15
    assert found.dense.memory.peak_bytes > found.dense.memory.runtime_bytes > 0
    assert found.details["threads"] >= 1
    assert found.absent is None


def test_failed_parity_is_in_the_result(engines, folders):
    pytest.importorskip("onnxruntime")
    made = engines("ort-cpu")
    swapped = {"dense": folders["dense"] / "reference.safetensors",
               "compressed": folders["dense"] / "reference.safetensors"}  # fmt: skip
    (found,) = drain(
        measure_target(made["dense"], made["compressed"], options(folders, references=swapped))
    )
    assert found.dense.parity.passed and not found.compressed.parity.passed
    assert not found.parity.passed


def test_target_that_cannot_run_here_is_absent_with_its_reason(engines, folders):
    pytest.importorskip("tensorrt_rtx")
    from diffc_runtime import machine

    if machine.gpu.gpus():
        pytest.skip("this machine has a GPU")
    made = engines("trt-rtx", gpu=("sm86",))
    (found,) = drain(measure_target(made["dense"], made["compressed"], options(folders)))
    assert found.dense.latency_ms is None and found.speedup is None and found.parity is None
    assert "no NVIDIA GPU" in found.absent == found.dense.absent
    assert found.dense.memory.engine_bytes > 0 and found.dense.memory.peak_bytes is None
    assert found.dense.precision_found == "fp32" and found.dense.build_seconds > 0


def test_different_targets_are_no_pair(engines, folders):
    pytest.importorskip("onnxruntime")
    fake, real = engines("fake"), engines("ort-cpu")
    with pytest.raises(RequestError, match="different targets: fake, ort-cpu"):
        drain(measure_target(fake["dense"], real["compressed"], options(folders)))


def test_whole_loop_is_timed(engines, folders):
    pytest.importorskip("onnxruntime")
    made = engines("ort-cpu")
    asked = options(folders, loop=LoopOptions(steps=4))
    found = drain(measure_loop(made["dense"], made["compressed"], asked))
    assert found.details["steps"] == 4 and found.details["sampler"] == "ddim"
    one = drain(measure_target(made["dense"], made["compressed"], options(folders)))[0]
    assert found.dense.latency_ms.p50 > 3 * min(one.dense.samples_ms)
