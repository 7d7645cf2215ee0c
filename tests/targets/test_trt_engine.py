"""TensorRT's runner without a GPU: binding, capture and what is refused, by stand-ins."""

import numpy as np
import pytest
from support.fake_cuda import UNCAPTURABLE
from support.fake_tensorrt import install

from diffc.errors import InputError, OutOfMemory
from diffc_export.events import drain
from diffc_export.targets import target
from diffc_export.targets.base import BuildOptions
from diffc_export.targets.engine import read_info
from diffc_export.targets.trt import TARGET
from diffc_export.targets.trt_engine import TrtEngine
from diffc_runtime.machine import cuda


@pytest.fixture
def library(monkeypatch):
    return install(monkeypatch)


@pytest.fixture
def runner(library, folder, tmp_path):
    """A function: options -> a runner of an engine with those profiles."""

    def load(**options):
        drain(target("fake").build(folder, BuildOptions(**options), tmp_path / "e"))
        info = read_info(tmp_path / "e")
        return TrtEngine(TARGET.flavour, tmp_path / "e" / "scale.txt", info)

    return load


def inputs(batch, value=1.0):
    sample = np.full((batch, 1, 8, 8), value, np.float32)
    return {"sample": sample, "timestep": np.zeros(batch, np.int64)}


def check(runner, batch):
    for value in (3.0, 5.0):
        given = inputs(batch, value)
        np.testing.assert_array_equal(runner(given)["out_sample"], 2 * given["sample"])


def test_each_batch_size_has_a_context_with_its_profile_and_its_graph(runner, library):
    loaded = runner(batch=(1, 4))
    for batch in (4, 1, 4):
        check(loaded, batch)
    assert [context.profile for context in library.contexts] == [1, 0]
    assert [context.shapes["sample"][0] for context in library.contexts] == [4, 1]
    assert len(library.runtime.graphs) == 2
    details = loaded.info.details
    assert (details["captured"], details["timed_by"]) == (True, "GPU events")


def test_one_profile_over_several_batch_sizes(runner, library):
    loaded = runner(batch=(1, 4, 8), one_profile=True)
    for batch in (8, 1, 4):
        check(loaded, batch)
    assert {context.profile for context in library.contexts} == {0}


def test_a_call_is_timed_by_events(runner):
    bound = runner(batch=(4,)).bind(inputs(4))
    assert bound.captured and bound.run() == pytest.approx(0.002)


def test_uncaptured_calls_are_enqueued_each_time(runner, library):
    loaded = runner(batch=(4,))
    bound = loaded.bind_uncaptured(inputs(4, 7.0))
    bound.run()
    np.testing.assert_array_equal(bound.outputs()["out_sample"], 14.0)
    assert library.runtime.graphs == [] and "captured" not in loaded.info.details


def test_what_cannot_be_captured_runs_without_a_graph_and_says_so(runner, library):
    library.uncapturable = True
    loaded = runner(batch=(4,))
    check(loaded, 4)
    assert loaded.info.details["captured"] is False
    assert "a loop cannot be captured" in loaded.info.details["not_captured"]
    assert library.runtime.capturing is None


@pytest.mark.parametrize("call", ["cudaStreamBeginCapture", "cudaGraphInstantiate"])
def test_a_graph_that_cuda_does_not_make(runner, library, call):
    library.runtime.statuses[call] = UNCAPTURABLE
    loaded = runner(batch=(4,))
    check(loaded, 4)
    assert f"{call} failed" in loaded.info.details["not_captured"]


def test_no_memory_for_a_graph_is_out_of_memory(runner, library):
    library.runtime.statuses["cudaGraphInstantiate"] = 2
    with pytest.raises(OutOfMemory):
        runner(batch=(4,))(inputs(4))


def test_a_failed_capture_raises_what_failed(library):
    """Not that the capture could not be ended, which follows from it."""

    def work():
        library.runtime.valid = False
        raise ValueError("the real reason")

    with pytest.raises(ValueError, match="the real reason"):
        cuda.CudaGraph(cuda.Stream(), work)
    assert library.runtime.capturing is None
    cuda.CudaGraph(cuda.Stream(), lambda: None)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("set_optimization_profile_async", "does not take profile 0: .* says no"),
        ("set_input_shape", r"does not take sample of shape \(4, 1, 8, 8\): .* says no"),
        ("set_tensor_address", "does not take a buffer for 'sample': .* says no"),
        ("execute_async_v3", "refused to run the engine: .* says no"),
    ],
)
def test_what_a_context_refuses_is_an_error(runner, library, call, words):
    loaded = runner(batch=(4,))
    library.refuses.add(call)
    with pytest.raises(InputError, match=words):
        loaded(inputs(4))


def test_buffers_are_given_back(runner, library):
    loaded = runner(batch=(4,))
    check(loaded, 4)
    assert library.runtime.held
    loaded.close()
    assert library.runtime.held == {}
