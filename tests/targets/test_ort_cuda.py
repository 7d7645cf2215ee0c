"""ort-cuda without a GPU: what it asks of ONNX Runtime, by a stand-in for both."""

import numpy as np
import pytest
from support.fake_cuda import FakeRuntime, installed
from support.fake_onnxruntime import install

from diffc.errors import CheckFailed, InputError, UnavailableError
from diffc_export.events import drain
from diffc_export.targets import target
from diffc_export.targets.base import BuildOptions
from diffc_export.targets.engine import read_info
from diffc_runtime.machine import cuda


@pytest.fixture
def sessions(monkeypatch):
    """The class of the stand-in's sessions; ``opened`` has them in order."""
    installed(monkeypatch, FakeRuntime())
    return install(monkeypatch)


@pytest.fixture
def engine(sessions, folder, tmp_path):
    """A function: options -> an engine folder."""

    def build(**options):
        drain(target("ort-cuda").build(folder, BuildOptions(**options), tmp_path / "e"))
        return tmp_path / "e"

    return build


def inputs(batch, value=1.0):
    sample = np.full((batch, 1, 8, 8), value, np.float32)
    return {"sample": sample, "timestep": np.zeros(batch, np.int64)}


def check_batches(runner, batches):
    for batch in batches:
        for value in (3.0, 5.0):
            given = inputs(batch, value)
            found = runner(given)["out_sample"]
            np.testing.assert_array_equal(found, 2 * given["sample"])


def test_one_profile_over_several_batches_is_no_graph(engine, sessions):
    """One graph holds the buffers of one batch size: another's would be left as they were."""
    folder = engine(batch=(1, 4, 8), one_profile=True)
    check_batches(target("ort-cuda").load(folder), (4, 8, 1))
    assert sessions.opened[-1].settings["enable_cuda_graph"] == "0"


def test_a_profile_for_each_of_several_batches_is_no_graph(engine, sessions):
    folder = engine(batch=(1, 4))
    check_batches(target("ort-cuda").load(folder), (4, 1, 4))
    assert sessions.opened[-1].settings["enable_cuda_graph"] == "0"


def test_a_static_engine_is_captured(engine, sessions):
    folder = engine(batch=(4,))
    runner = target("ort-cuda").load(folder)
    check_batches(runner, (4,))
    assert sessions.opened[-1].captured is not None


def test_calls_are_timed_by_events_on_the_stream_that_the_session_computes_on(engine, sessions):
    runner = target("ort-cuda").load(engine(batch=(4,)))
    assert runner.info.details["timed_by"] == "GPU events"
    assert sessions.opened[-1].settings["user_compute_stream"] == "77"
    assert runner.bind(inputs(4)).run() == pytest.approx(0.002)  # the stand-in's events
    entries = sessions.opened[-1].runs[-1].entries
    assert entries == {"disable_synchronize_execution_providers": "1"}


def test_without_cudas_runtime_library_the_clock_says(engine, sessions, monkeypatch):
    folder = engine(batch=(4,))
    monkeypatch.setattr(cuda, "installed", lambda: False)
    runner = target("ort-cuda").load(folder)
    assert runner.info.details["timed_by"] == "clock"
    assert "user_compute_stream" not in sessions.opened[-1].settings
    check_batches(runner, (4,))
    assert sessions.opened[-1].runs[-1].entries == {}


@pytest.mark.parametrize("when", ["refuses", "fails"])
def test_what_cannot_be_captured_runs_without_a_graph_and_says_so(engine, sessions, when):
    folder = engine(batch=(4,))
    getattr(sessions, when)["enable_cuda_graph"] = "the stream cannot be captured"
    runner = target("ort-cuda").load(folder)
    check_batches(runner, (4,))
    details = runner.info.details
    assert details["captured"] is False
    assert "the stream cannot be captured" in details["not_captured"]
    with pytest.raises(UnavailableError, match="the stream cannot be captured"):
        runner.bind_uncaptured(inputs(4))


def test_a_captured_engine_says_so_and_runs_without_too(engine, sessions):
    runner = target("ort-cuda").load(engine(batch=(4,)))
    assert runner.info.details["captured"] is True
    bound = runner.bind_uncaptured(inputs(4, 7.0))
    bound.run()
    np.testing.assert_array_equal(bound.outputs()["out_sample"], 14.0)
    assert sessions.opened[-1].settings["enable_cuda_graph"] == "0"


def test_a_session_that_does_not_open_at_all_is_an_error(engine, sessions):
    folder = engine(batch=(4,))
    sessions.refuses["use_tf32"] = sessions.refuses["enable_cuda_graph"] = "no such file"
    sessions.refuses["device_id"] = "no such file"
    session = sessions.__init__

    def never(self, path, options, providers, **more):
        again = [(providers[0][0], {**providers[0][1], "device_id": "1"})]
        session(self, path, options, again, **more)

    sessions.__init__ = never
    with pytest.raises(InputError, match="no such file"):
        target("ort-cuda").load(folder)


def test_layers_on_the_processor_are_refused_at_the_build(engine, sessions):
    """Also for several batch sizes, whose engines are not captured and would not say so."""
    sessions.refuses["enable_cuda_graph"] = (
        "This session cannot use the graph capture feature as requested by the user as all compute "
        "graph nodes have not been partitioned to the CUDAExecutionProvider"
    )
    with pytest.raises(CheckFailed, match=r"cannot compute all of .* on the GPU: .*partitioned"):
        engine(batch=(1, 4))


def test_the_engine_says_what_it_is(engine):
    info = read_info(engine(batch=(4,)))
    assert info.device["gpu"] == "NVIDIA A10G"
    assert (info.precision_found, info.precision_shares) == ("fp32", {"fp32": 1.0})
