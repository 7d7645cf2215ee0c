"""TensorRT in the runtime: the calls it makes, on a fake library, and a real engine's refusal."""

from __future__ import annotations

import ctypes
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from support import tiny_engines

from diffc_export.events import drain
from diffc_export.targets import target
from diffc_export.targets.base import BuildOptions
from diffc_runtime import machine
from diffc_runtime.engines import open_engine
from diffc_runtime.errors import UnfitEngine
from diffc_runtime.libraries.tensorrt import Log, TrtLibrary
from diffc_runtime.loaders.trt import ServedTrtEngine
from diffc_runtime.machine import cuda


class HostCuda:
    """libcudart's calls on host memory."""

    def __init__(self) -> None:
        self.memory: dict[int, ctypes.Array] = {}

    def cudaStreamCreateWithFlags(self, stream, flags):
        stream._obj.value = 7
        return 0

    def cudaEventCreate(self, event):
        return 0

    def cudaStreamSynchronize(self, stream):
        return 0

    def cudaMalloc(self, pointer, size):
        block = ctypes.create_string_buffer(size.value)
        pointer._obj.value = ctypes.addressof(block)
        self.memory[pointer._obj.value] = block
        return 0

    def cudaMemcpyAsync(self, to, source, size, kind, stream):
        for pointer in (to, source):
            block = self.memory.get(pointer.value)
            assert block is None or size.value <= len(block)
        ctypes.memmove(to, source, size)
        return 0

    def cudaFree(self, pointer):
        del self.memory[pointer.value]
        return 0


class Context:
    """An execution context of a network that gives sample + timestep."""

    def __init__(self, log: list[tuple]) -> None:
        self.log, self.shapes, self.addresses = log, {}, {}

    def set_optimization_profile_async(self, profile, stream):
        self.profile = profile
        return True

    def set_input_shape(self, name, shape):
        self.shapes[name] = shape
        return True

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def get_tensor_shape(self, name):
        return self.shapes["sample"]

    def _array(self, name, shape, dtype):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        block = (ctypes.c_char * size).from_address(self.addresses[name])
        return np.frombuffer(block, dtype).reshape(shape)

    def execute_async_v3(self, stream):
        shape = self.shapes["sample"]
        self.log.append((self.profile, shape[0]))
        x = self._array("sample", shape, np.float32)
        t = self._array("timestep", self.shapes["timestep"], np.int64)
        self._array("output", shape, np.float32)[...] = x + t[:, None, None, None]
        return True


class SlowLog:
    """A log whose entries take long, in the middle of a call: other threads run meanwhile."""

    def __init__(self, log: list[tuple]) -> None:
        self.log = log

    def append(self, entry: tuple) -> None:
        time.sleep(0.002)
        self.log.append(entry)


@pytest.fixture
def library(monkeypatch):
    fake = HostCuda()
    monkeypatch.setattr(cuda, "_runtime", lambda: fake)
    return fake


def fake_trt(log, loads=True):
    opened = SimpleNamespace(create_execution_context=lambda: Context(log)) if loads else None
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda plan: opened)
    trt = SimpleNamespace(Runtime=lambda logger: runtime, __version__="11.4")
    return TrtLibrary(trt, None, Log())


def info(*batches):
    shape = {"min": 0, "opt": 1, "max": 2}
    return {
        "versions": {"tensorrt": "11.4"},
        "profiles": [
            {"sample": {key: [batch[i], 3, 8, 8] for key, i in shape.items()}} for batch in batches
        ],
        "inputs": [
            {"name": "sample", "shape": [3, 8, 8], "dtype": "float32"},
            {"name": "timestep", "shape": [], "dtype": "int64"},
        ],
        "outputs": [{"name": "output", "shape": [3, 8, 8], "dtype": "float32"}],
    }


def test_runs_in_the_profile_that_is_best_at_the_batch(library):
    log: list[tuple] = []
    engine = ServedTrtEngine(fake_trt(log), b"plan", info((1, 1, 8), (1, 4, 8)))
    for batch in (1, 4, 3, 8):
        x = np.random.default_rng(batch).standard_normal((batch, 3, 8, 8), dtype=np.float32)
        t = np.arange(batch)
        out = engine({"sample": x, "timestep": t})
        np.testing.assert_array_equal(out, (x + t[:, None, None, None]).astype(np.float32))
    assert log == [(0, 1), (1, 4), (0, 3), (0, 8)]


def test_several_threads_get_their_own_outputs(library):
    """The buffers on the GPU are the engine's: another thread's call would write to them."""
    log: list[tuple] = []
    engine = ServedTrtEngine(fake_trt(SlowLog(log)), b"plan", info((1, 1, 8)))
    inputs = [
        {"sample": np.full((1, 3, 8, 8), i, np.float32), "timestep": np.array([0])}
        for i in range(32)
    ]
    with ThreadPoolExecutor(8) as pool:
        for i, output in enumerate(pool.map(engine, inputs)):
            assert (output == i).all()
    with pytest.raises(UnfitEngine, match="not built for batch 9"):
        engine({"sample": np.zeros((9, 3, 8, 8), np.float32), "timestep": np.zeros(9, np.int64)})
    assert len(library.memory) == 3
    del engine
    assert library.memory == {}


def test_profiles_of_other_resolutions_are_left_alone(library):
    """Profile 0 is 16x16's: what runs at 8x8 is profile 1, and no context is made for the other."""
    log: list[tuple] = []
    engine_info = info((2, 2, 2), (2, 2, 2))
    for key in ("min", "opt", "max"):
        engine_info["profiles"][0]["sample"][key][2:] = [16, 16]
    engine = ServedTrtEngine(fake_trt(log), b"plan", engine_info)
    engine({"sample": np.zeros((2, 3, 8, 8), np.float32), "timestep": np.arange(2)})
    assert log == [(1, 2)]


@pytest.mark.parametrize("one_profile", [False, True])
def test_another_resolution_gets_its_own_output(library, one_profile):
    """Both ways to build several: a static profile for each, and one over all of them."""
    log: list[tuple] = []
    engine_info = info((2, 2, 2), (2, 2, 2))
    for key in ("min", "opt", "max"):
        engine_info["profiles"][1]["sample"][key][2:] = [16, 24]
    if one_profile:
        usual, large = (profile["sample"] for profile in engine_info["profiles"])
        engine_info["profiles"] = [{"sample": {**usual, "max": large["max"]}}]
    engine = ServedTrtEngine(fake_trt(log), b"plan", engine_info)
    t = np.array([3, 5])
    for height, width in ((8, 8), (16, 24), (8, 8)):
        x = np.random.default_rng(height).standard_normal((2, 3, height, width), np.float32)
        output = engine({"sample": x, "timestep": t})
        np.testing.assert_array_equal(output, (x + t[:, None, None, None]).astype(np.float32))
    other = 0 if one_profile else 1
    assert log == [(0, 2), (other, 2), (0, 2)]
    assert len(library.memory) == 3, "the smaller buffers were given back"
    with pytest.raises(UnfitEngine, match=r"not built for batch 2 of sample \(3, 32, 32\)"):
        engine({"sample": np.zeros((2, 3, 32, 32), np.float32), "timestep": t})


def test_an_engine_that_does_not_load_says_who_built_it(library):
    with pytest.raises(
        UnfitEngine, match=r"cannot load this engine here; it was built by tensorrt"
    ):
        ServedTrtEngine(fake_trt([], loads=False), b"plan", info((1, 1, 1)))


def test_a_context_that_cannot_be_made_is_said(library):
    library = fake_trt([])
    library.trt.Runtime(None).deserialize_cuda_engine(b"").create_execution_context = lambda: None
    with pytest.raises(UnfitEngine, match="could not make an execution context for profile 0"):
        ServedTrtEngine(library, b"plan", info((1, 1, 1)))


@pytest.mark.slow
@pytest.mark.skipif(bool(machine.gpu.gpus()), reason="for a machine without an NVIDIA GPU")
def test_a_real_engine_without_a_gpu_is_refused(tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt_rtx (diffc[rtx])")
    source = tiny_engines.onnx_folder(tmp_path / "onnx", tiny_engines.graph(conditions=False))
    options = BuildOptions(batch=(1,), gpu=("sm86", "sm89"))
    drain(target("trt-rtx").build(source, options, tmp_path / "engine"))
    with pytest.raises(UnfitEngine, match="built for sm86, sm89; here: no NVIDIA GPU"):
        open_engine(tmp_path / "engine")
