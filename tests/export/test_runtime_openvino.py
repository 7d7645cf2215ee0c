"""An OpenVINO engine in the runtime, where openvino is installed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("openvino", reason="needs openvino (diffc[openvino])")

from support import tiny_engines

from diffc_export.events import drain
from diffc_export.targets import target
from diffc_export.targets.base import BuildOptions
from diffc_runtime.engines import open_engine


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("openvino")
    source = tiny_engines.onnx_folder(folder / "onnx", tiny_engines.graph(conditions=True))
    options = BuildOptions(batch=(1, 3), one_profile=True, threads=1)
    drain(target("openvino").build(source, options, folder / "engine"))
    return folder / "engine"


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_runs_like_the_target_that_built_it(engine, batch):
    rng = np.random.default_rng(batch)
    inputs = {
        "sample": rng.standard_normal((batch, 3, 8, 8), dtype=np.float32),
        "timestep": np.arange(batch),
        "class_labels": np.arange(batch),
        "encoder_hidden_states": rng.standard_normal((batch, 4, 5), dtype=np.float32),
    }
    theirs = target("openvino").load(engine, threads=1)(inputs)
    ours = open_engine(engine, threads=1)
    first = ours.run(inputs).copy()
    np.testing.assert_array_equal(first, next(iter(theirs.values())))
    changed = ours.run({**inputs, "sample": inputs["sample"] + 1})
    assert np.abs(changed - first).max() > 0.01


def test_several_threads_get_their_own_outputs(engine):
    """A request of OpenVINO has one set of inputs: another thread's call would change them."""
    rng = np.random.default_rng(0)
    calls = [
        {
            "sample": rng.standard_normal((1, 3, 8, 8), dtype=np.float32),
            "timestep": np.array([i]),
            "class_labels": np.array([i % 3]),
            "encoder_hidden_states": rng.standard_normal((1, 4, 5), dtype=np.float32),
        }
        for i in range(64)
    ]
    run = open_engine(engine, threads=1).run
    alone = [run(call) for call in calls]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            for one, output in zip(alone, pool.map(run, calls), strict=True):
                np.testing.assert_array_equal(output, one)
