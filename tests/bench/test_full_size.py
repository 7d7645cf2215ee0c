"""The steps of bench.full_size, on a small network."""

import math
import shutil
import time
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bench import full_size, full_size_engine
from bench.full_size import NETWORKS

NAME = "dit-xl-2"


@pytest.fixture(scope="module")
def exported_once(tmp_path_factory):
    network, folder = NETWORKS[NAME], tmp_path_factory.mktemp("exported")
    small = replace(network, config={**network.config, **network.small})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORKS, NAME, small)
        full_size.child("write", NAME, folder)
        said = full_size.child("export", NAME, folder)
        assert said["parameters"] > 1000 and said["bytes"] > 4 * said["parameters"]
        assert said["seconds"] > 0 and said["peak_bytes"] > 10_000_000
        yield folder


@pytest.fixture
def exported(exported_once, tmp_path):
    return shutil.copytree(exported_once, tmp_path / "exported")


@pytest.mark.slow
def test_every_step_goes_through(exported):
    half = full_size.child("convert", NAME, exported)
    assert half["bytes"] < 0.9 * full_size.size_of(exported / "fp32")
    error = full_size.child("run", NAME, exported)["error"]
    assert error["fp32"] < 1e-4 < error["fp16"] < 1e-2


@pytest.mark.slow
def test_int8_goes_through_as_of_a_large_file(exported, monkeypatch):
    monkeypatch.setattr("diffc_export.onnx.weights.LARGEST_SINGLE_FILE", 0)
    full_size.child("reference", NAME, exported)
    row = full_size.child("int8", NAME, exported)
    assert row["bytes"] < full_size.size_of(exported / "fp32")
    assert 0 < row["error"] <= row["tolerance"] and row["kept_fp32"] < row["layers"]
    assert (exported / "int8" / "model.onnx.data").is_file()


def test_a_stream_that_takes_more_than_it_may_ends_it(tmp_path):
    (tmp_path / "fp32").mkdir()
    (tmp_path / "fp32" / "model.onnx").write_bytes(bytes(1000))
    most = full_size.limit("export", NAME, 1000, tmp_path)
    assert most == full_size.LIMIT_SHARE * 500 + full_size.LIMIT_BYTES
    assert full_size.limit("export", NAME, int(most), tmp_path) == most
    with pytest.raises(SystemExit, match=r"export of dit-xl-2 took .* GB, not 1\.50"):
        full_size.limit("export", NAME, int(most) + 1, tmp_path)


@pytest.mark.slow
def test_a_file_that_computes_something_else_ends_it(exported):
    full_size.child("convert", NAME, exported)
    path = exported / "fp16" / "model.onnx"
    model = onnx.load(path)
    largest = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    changed = numpy_helper.to_array(largest) * 1.5
    largest.CopyFrom(numpy_helper.from_array(changed.astype("float16"), largest.name))
    onnx.save(model, path)
    with pytest.raises(SystemExit, match=r"fp16 is .* from torch"):
        full_size.child("run", NAME, exported)


def test_the_watcher_sees_memory_that_is_given_back_before_the_end():
    with full_size.OwnMemory() as memory:
        deadline = time.monotonic() + 60
        block = b"1" * 100_000_000
        while memory.peak < 100_000_000 and time.monotonic() < deadline:
            time.sleep(0.01)
        del block
        seen = memory.peak
        memory.peak = 0
    assert seen > 100_000_000 and 0 < memory.peak < seen - 50_000_000


@pytest.fixture
def small_sd15(tmp_path, monkeypatch):
    """The folder of a scaled-down SD 1.5 that is to be trained."""
    network = NETWORKS["sd15-run"]
    small = replace(network, config={**network.config, **network.small})
    monkeypatch.setitem(NETWORKS, "sd15-run", small)
    monkeypatch.setattr(full_size, "RATIO", 0.3)
    # pytest's own process is measured: what earlier tests left in it can be more than LARGE.
    monkeypatch.setattr(full_size, "LARGE", math.inf)
    monkeypatch.setattr(full_size, "MOST", math.inf)
    monkeypatch.setattr(full_size, "ENGINES", {})  # other tests build the engines of small networks
    monkeypatch.setattr(full_size, "WATCHED", full_size.OwnMemory())
    monkeypatch.setenv("DIFFC_CACHE", str(tmp_path))
    full_size.child("write", "sd15-run", tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_training_names_what_each_stage_took(small_sd15):
    row = full_size.child("whole", "sd15-run", small_sd15)
    for stage in ("importance", "prune", "repair", "distill", "samples"):
        assert row["stages"][stage]["own_peak_bytes"] > 10_000_000
    assert row["stages"]["distill"]["estimated_bytes"] > 350_000_000
    assert row["parameters"]["compressed"] < row["parameters"]["dense"]


@pytest.mark.slow
def test_what_was_cut_becomes_an_engine(small_sd15):
    full_size.child("blocks", "sd15-run", small_sd15)
    row = full_size.child("engine", "sd15-run", small_sd15)
    assert row["error"] < 1e-4 and row["parameters"] < row["engine_bytes"]


def test_an_engine_that_computes_something_else_ends_it():
    expected = np.ones(100, np.float32)
    assert full_size_engine.error_of(expected * (1 + 1e-5), expected) == pytest.approx(
        1e-5, rel=0.1
    )
    for far in (expected * 1.1, expected * np.nan):
        with pytest.raises(SystemExit, match=r"OpenVINO is .* from torch"):
            full_size_engine.error_of(far, expected)


@pytest.mark.slow
def test_an_estimate_that_is_far_off_ends_it(small_sd15, monkeypatch):
    monkeypatch.setattr(full_size, "LARGE", 0)
    monkeypatch.setattr("diffc.stages.needs.PROCESS_BYTES", 10_000)
    with pytest.raises(SystemExit, match=r"data took .* GB, not"):
        full_size.child("whole", "sd15-run", small_sd15)
