"""Engines of several resolutions: each is timed, weighed and compared with the model by itself."""

import re

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.onnx_folder import write_handmade_folder

from diffc.errors import OutOfMemory
from diffc.measure.compare import measure_loop, measure_target
from diffc.measure.engines import MeasureOptions
from diffc.measure.inputs import example_inputs
from diffc.measure.latency import LatencyOptions
from diffc.measure.loop import LoopOptions
from diffc.measure.memory import measure_memory
from diffc.measure.parity import measure_parity, parities
from diffc.measure.results import at_working
from diffc_export.events import drain
from diffc_export.targets import target

QUICK = LatencyOptions(rounds=15, seconds=0.0, warmup_seconds=0.2)
SIZES = ((8, 8), (16, 16))
MACS = {"dense": 2_000_000_000, "compressed": 1_000_000_000}


@pytest.fixture
def folders(tmp_path):
    """As conftest's, serving 16x16 beside 8x8."""
    return {
        name: write_handmade_folder(
            tmp_path / "OUT" / "onnx" / name, channels, macs=MACS[name], others=SIZES[1:]
        )
        for name, channels in (("dense", 16), ("compressed", 8))
    }


def measured(made, folders=None, **changed):
    references = {
        name: folder / "reference.safetensors" for name, folder in (folders or {}).items()
    }
    options = {"latency": QUICK, "memory": False, "references": references, **changed}
    return drain(measure_target(made["dense"], made["compressed"], MeasureOptions(**options)))


def test_each_resolution_is_timed_at_each_batch(engines):
    """The fake takes 2 ms at 8x8 and four times as long at 16x16; pruning is worth 2 at both."""
    found = measured(engines("fake", batch=(1, 4)))
    assert [(r.resolution, r.batch) for r in found] == [
        ((8, 8), 1), ((8, 8), 4), ((16, 16), 1), ((16, 16), 4),
    ]  # fmt: skip
    for result, milliseconds in zip(found, (2.0, 8.0, 8.0, 32.0), strict=True):
        assert result.dense.latency_ms.p50 == pytest.approx(milliseconds, rel=0.02)
        assert result.speedup.median == pytest.approx(2.0, rel=0.02)
    # the MACs are the working resolution's, so what they are worth is said there alone
    assert [r.efficiency is None for r in found] == [False, False, True, True]
    assert at_working(found) == found[:2]
    assert [r.shape_words for r in found[1:3]] == ["batch 4, 8x8", "batch 1, 16x16"]


def test_the_loop_is_that_of_the_working_resolution(engines):
    made = engines("fake", batch=(1, 2))
    options = MeasureOptions(latency=QUICK, loop=LoopOptions(steps=2))
    found = drain(measure_loop(made["dense"], made["compressed"], options))
    assert found.resolution is None and found.speedup is not None


def test_a_resolution_that_memory_does_not_suffice_for_is_absent(engines, monkeypatch):
    from diffc_export.targets.fake import FakeEngine

    bind = FakeEngine.bind

    def small(self, inputs):
        if inputs["sample"].shape[-1] > 8:
            raise OutOfMemory("out of GPU memory", asked=9 << 30, free=None)
        return bind(self, inputs)

    monkeypatch.setattr(FakeEngine, "bind", small)
    found = measured(engines("fake", batch=(1,)))
    assert [(r.resolution, r.absent is None) for r in found] == [((8, 8), True), ((16, 16), False)]


def test_each_resolution_has_its_own_parity(engines, folders):
    pytest.importorskip("onnxruntime")
    found = measured(engines("ort-cpu", threads=1), folders)
    assert all(r.dense.parity.passed and r.compressed.parity.passed for r in found)
    assert found[0].dense.parity.trajectory_rel_l2 is not None
    assert found[1].dense.parity.trajectory_rel_l2 is None
    assert found[0].dense.parity.rel_l2 != found[1].dense.parity.rel_l2


def wrong_elsewhere(runner):
    """The same engine, right at the working size alone."""

    class Wrong:
        info = runner.info

        def __call__(self, inputs):
            factor = np.float32(1.0 if inputs["sample"].shape[-1] == 8 else 1.01)
            return {name: array * factor for name, array in runner(inputs).items()}

    return Wrong()


def test_an_engine_that_is_wrong_at_another_size_fails(engines, folders):
    pytest.importorskip("onnxruntime")
    runner = target("ort-cpu").load(engines("ort-cpu", batch=(1, 3), threads=1)["dense"])
    reference = folders["dense"] / "reference.safetensors"
    assert drain(measure_parity(runner, reference)).passed
    found = drain(parities(wrong_elsewhere(runner), reference))
    assert found[None].passed and not found[16, 16].passed
    whole = drain(measure_parity(wrong_elsewhere(runner), reference))
    assert not whole.passed
    assert re.match(r"at 16x16(, batch \d)?: relative error 0.01 at noise level", whole.reason)


def test_a_failure_elsewhere_is_in_that_resolutions_result(engines, folders):
    pytest.importorskip("onnxruntime")
    path = folders["compressed"] / "reference.safetensors"
    tensors = load_file(path)
    tensors["at.16x16.output"] = tensors["at.16x16.output"] * np.float32(1.5)
    save_file(tensors, path)
    working, other = measured(engines("ort-cpu", threads=1), folders)
    assert working.parity.passed and other.dense.parity.passed
    assert not other.parity.passed and other.parity.reason.startswith("at 16x16")


def test_a_reference_without_the_size_leaves_it_unjudged(engines, folders):
    pytest.importorskip("onnxruntime")
    path = folders["dense"] / "reference.safetensors"
    tensors = {k: v for k, v in load_file(path).items() if not k.startswith("at.")}
    save_file(tensors, path)
    runner = target("ort-cpu").load(engines("ort-cpu", threads=1)["dense"])
    assert set(drain(parities(runner, path))) == {None}


def test_inputs_of_a_size_are_the_references_own(engines, folders):
    info = target("fake").load(engines("fake")["dense"]).info
    reference = folders["dense"] / "reference.safetensors"
    rows = load_file(reference)
    for size, key in ((None, "input"), ((8, 8), "input"), ((16, 16), "at.16x16.input")):
        found = example_inputs(info, 2, reference, size=size)
        np.testing.assert_array_equal(found["sample"], rows[f"{key}.sample"][:2])
    assert example_inputs(info, 2, size=(16, 16))["sample"].shape == (2, 1, 16, 16)


@pytest.mark.slow
def test_memory_is_of_the_resolution(tmp_path):
    """A single channel in and out of 64: at 512x512 their activations take 64 MiB at least."""
    pytest.importorskip("onnxruntime")
    from diffc_export.targets.base import BuildOptions

    folder = write_handmade_folder(tmp_path / "onnx", channels=64, others=((512, 512),))
    drain(target("ort-cpu").build(folder, BuildOptions(threads=1), tmp_path / "engine"))
    small = measure_memory(tmp_path / "engine", 1)
    large = measure_memory(tmp_path / "engine", 1, size=(512, 512))
    assert large.activations_bytes > 64 << 20 > small.activations_bytes
    assert large.engine_bytes == small.engine_bytes
