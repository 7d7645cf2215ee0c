"""Memory of a fresh process: true peaks, and no training package in it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from diffc.errors import UnavailableError
from diffc.measure import memory
from diffc.measure.memory import from_readings, measure_memory
from diffc.measure.probe import memory_field, probe
from diffc_export.targets import target
from diffc_export.targets.engine import read_info

pytest.importorskip("onnxruntime")


@pytest.fixture
def engine(engines):
    return engines("ort-cpu", batch=(1,))["dense"]


def test_figures_are_of_a_fresh_process(engine):
    ballast = b"x" * (600 << 20)  # a big parent must not show in the child's peak
    found = measure_memory(engine, 1)
    assert found.engine_bytes == read_info(engine).engine_bytes
    assert 0 < found.runtime_bytes < found.peak_bytes < 400 << 20
    assert found.device_bytes is None
    assert len(ballast) == 600 << 20


def test_the_process_has_no_torch(engine):
    command = [sys.executable, "-m", "diffc.measure.probe", str(engine)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["torch"] == 0


def test_the_engine_has_the_threads_that_it_is_timed_with(engine, monkeypatch):
    given = []
    monkeypatch.setattr(memory, "_probed", lambda *args: given.append(args))
    monkeypatch.setattr(memory, "from_readings", lambda *_: None)
    memory.measure_memory(engine, 2, threads=1)
    memory.measure_memory(engine, 2, split=False)
    assert given == [
        (engine, 2, "--threads", "1"), (engine, 2, "--threads", "1", "--trim"), (engine, 2)
    ]  # fmt: skip


def test_the_process_loads_it_with_those_threads(engine, monkeypatch):
    seen = []
    runtime = target("ort-cpu")
    load = type(runtime).load
    monkeypatch.setattr(
        type(runtime), "load", lambda self, folder, n=None: seen.append(n) or load(self, folder, n)
    )
    probe(engine, 1, runs=1, threads=1)
    assert seen == [1]


def test_peak_is_at_least_what_was_touched():
    """VmHWM sees memory that was given back: 64 MiB touched and freed in a fresh process."""
    script = (
        "from diffc.measure.probe import memory_field as f\n"
        "a = f('VmRSS'); b = bytearray(b'x' * (64 << 20)); del b\n"
        "print(f('VmHWM') - a, f('VmRSS') - a)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    peak, now = map(int, done.stdout.split())
    assert peak >= 64 << 20
    assert now < 16 << 20
    assert memory_field("VmRSS") > 0


def test_a_kernel_that_counts_no_peak_is_asked_another_way(monkeypatch):
    """gVisor's, in which some clouds run containers."""
    read = Path.read_text

    def without_peak(path, *given):
        lines = read(path, *given).splitlines(keepends=True)
        return "".join(line for line in lines if not line.startswith("VmHWM"))

    monkeypatch.setattr(Path, "read_text", without_peak)
    assert memory_field("VmHWM") > 0 and memory_field("VmRSS") > 0


def test_engine_that_cannot_be_run_gives_the_reason(engine):
    (engine / "model.onnx").write_bytes(b"cut")
    with pytest.raises(UnavailableError, match=r"model\.onnx was cut or altered"):
        measure_memory(engine, 1)


def _large(tmp_path, weights, activation):
    """An engine that holds ``weights`` bytes and makes ``activation`` bytes on the way."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from support.onnx_folder import describe_folder

    from diffc_export.events import drain
    from diffc_export.targets import target
    from diffc_export.targets.base import BuildOptions

    folder = tmp_path / "large"
    folder.mkdir()
    wide, tall = weights // 4 // 64, activation // 4 // 64
    arrays = {
        "w": np.random.default_rng(0).standard_normal((64, wide)).astype(np.float32),
        "ones": np.ones((1, tall, 1), np.float32),
        "last": np.array([1, 1, 8, 8]),
        "axes": np.array([1, 2]),
    }
    nodes = [
        helper.make_node("Reshape", ["sample", "flat"], ["x"]),
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("ReduceSum", ["h", "axes"], ["s"], keepdims=1),
        helper.make_node("Mul", ["x", "ones"], ["big"]),
        helper.make_node("Exp", ["big"], ["bigger"]),
        helper.make_node("ReduceSum", ["bigger", "rows"], ["y"], keepdims=1),
        helper.make_node("Add", ["y", "s"], ["z"]),
        helper.make_node("Cast", ["timestep"], ["t"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["t", "column"], ["tc"]),
        helper.make_node("Add", ["z", "tc"], ["zt"]),
        helper.make_node("Reshape", ["zt", "image"], ["out_sample"]),
    ]
    arrays |= {
        "flat": np.array([-1, 1, 64]), "rows": np.array([1]), "column": np.array([-1, 1, 1]),
        "image": np.array([-1, 1, 8, 8]),
    }  # fmt: skip
    image = ["batch", 1, 8, 8]
    graph = helper.make_graph(
        nodes, "large",
        [helper.make_tensor_value_info("sample", TensorProto.FLOAT, image),
         helper.make_tensor_value_info("timestep", TensorProto.INT64, ["batch"])],
        [helper.make_tensor_value_info("out_sample", TensorProto.FLOAT, image)],
        [numpy_helper.from_array(a, n) for n, a in arrays.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10),
              folder / "model.onnx")  # fmt: skip
    describe_folder(folder, (1, 8, 8))
    drain(target("ort-cpu").build(folder, BuildOptions(threads=1), tmp_path / "e"))
    return tmp_path / "e"


@pytest.mark.slow
def test_weights_and_activations_are_told_apart(tmp_path):
    """48 MiB of weights, a few intermediate tensors of 96 MiB: each is in its own figure."""
    mib = 1 << 20
    found = measure_memory(_large(tmp_path, 48 * mib, 96 * mib), 1)
    assert 45 * mib < found.weights_bytes < 94 * mib
    assert 2 * 96 * mib <= found.activations_bytes < 5 * 96 * mib
    assert found.peak_bytes > found.weights_bytes + found.activations_bytes


def test_without_the_split_there_is_one_process_and_no_split(engine):
    found = measure_memory(engine, 1, split=False)
    assert found.weights_bytes is None and found.activations_bytes is None
    assert found.peak_bytes > 0


def test_gpu_readings_become_figures():
    whole = {
        "start": 100, "loaded": 150, "run": 180, "running_peak": 190, "peak": 200,
        "device": [1000, 5000, 7000], "device_how": "NVML, this process", "allocator": 1500,
    }  # fmt: skip
    found = from_readings(whole, None, 10)
    assert (found.device_bytes, found.device_weights_bytes) == (6000, 4000)
    assert (found.device_activations_bytes, found.allocator_bytes) == (2000, 1500)
    assert found.device_how == "NVML, this process"
    assert from_readings({**whole, "device": [None] * 3}, whole, 10).device_bytes is None


def test_the_meter_is_this_process_where_nvml_knows_it(monkeypatch):
    from diffc.measure import probe
    from diffc_runtime.machine import cuda, nvml

    monkeypatch.setattr(cuda, "free_bytes", lambda: 1)
    monkeypatch.setattr(cuda, "used_bytes", lambda: 77)
    monkeypatch.setattr(nvml, "process_bytes", lambda: 42)
    read, how = probe.device_meter("trt")
    assert read() == 42 and "this process" in how
    monkeypatch.setattr(nvml, "process_bytes", lambda: None)
    read, how = probe.device_meter("trt")
    assert read() == 77 and "whole device" in how
    read, how = probe.device_meter("ort-cpu")
    assert read() is None and how is None


def test_figures_among_what_a_library_in_c_prints(engine, monkeypatch, tmp_path):
    """C's own buffer is written at the process's end, behind the figures."""
    lines = "import ctypes\nctypes.CDLL(None).puts(b'noise of a library')\n"
    (tmp_path / "sitecustomize.py").write_text(lines)
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(tmp_path), before))))
    assert measure_memory(engine, 1, split=False).peak_bytes > 0
