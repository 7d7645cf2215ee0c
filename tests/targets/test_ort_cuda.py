"""ort-cuda without a GPU: what it asks of ONNX Runtime, by a stand-in for both."""

import numpy as np
import pytest
from fake_onnxruntime import install

from diffc.events import drain
from diffc.targets import target
from diffc.targets.base import BuildOptions
from diffc.targets.engine import read_info


@pytest.fixture
def sessions(monkeypatch):
    """The class of the stand-in's sessions; ``opened`` has them in order."""
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


def test_the_engine_says_what_it_is(engine):
    info = read_info(engine(batch=(4,)))
    assert info.device["gpu"] == "NVIDIA A10G"
    assert (info.precision_found, info.precision_shares) == ("fp32", {"fp32": 1.0})
