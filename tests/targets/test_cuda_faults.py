"""CUDA's failures, from a stand-in for libcudart that gives its statuses and its words."""

import ctypes
import gc

import pytest

from diffc.errors import OutOfMemory, UnavailableError
from diffc.targets import cuda, nvml

GIB = 1 << 30
NO_MEMORY, TOO_OLD, BUSY, NO_DEVICE = 2, 35, 46, 100
WORDS = {
    NO_MEMORY: b"out of memory",
    TOO_OLD: b"CUDA driver version is insufficient for CUDA runtime version",
    BUSY: b"CUDA-capable device(s) is/are busy or unavailable",
    NO_DEVICE: b"no CUDA-capable device is detected",
}


class FakeRuntime:
    """libcudart: each call's status, in order; memory is counted."""

    def __init__(self, driver=13000, total=8 * GIB):
        self.statuses, self.driver, self.total = {}, driver, total
        self.held, self.cleared = {}, 0

    def __getattr__(self, name):
        if not name.startswith("cuda"):
            raise AttributeError(name)
        return lambda *_: self.statuses.get(name, 0)

    def cudaGetErrorString(self, status):
        return WORDS[status]

    def cudaGetLastError(self):
        self.cleared += 1
        return 0

    def cudaDriverGetVersion(self, pointer):
        pointer._obj.value = self.driver
        return 0

    def cudaRuntimeGetVersion(self, pointer):
        pointer._obj.value = 13050
        return 0

    def cudaMemGetInfo(self, free, total):
        free._obj.value, total._obj.value = self.total - sum(self.held.values()), self.total
        return self.statuses.get("cudaMemGetInfo", 0)

    def cudaMalloc(self, pointer, size):
        if sum(self.held.values()) + size.value > self.total:
            return NO_MEMORY
        pointer._obj.value = 4096 * (len(self.held) + 1)
        self.held[pointer._obj.value] = size.value
        return 0

    def cudaFree(self, pointer):
        del self.held[pointer.value]
        return 0


@pytest.fixture
def runtime(monkeypatch):
    made = FakeRuntime()
    monkeypatch.setattr(cuda, "_runtime", lambda: made)
    monkeypatch.setattr(nvml, "others", list)
    return made


def test_a_buffer_that_does_not_fit(runtime):
    held = cuda.Buffer(6 * GIB)
    with pytest.raises(OutOfMemory) as caught:
        cuda.Buffer(3 * GIB)
    assert str(caught.value) == (
        "out of GPU memory while making a buffer: 3.0 GiB asked for, 2.0 GiB of 8.0 GiB free"
    )
    assert (caught.value.asked, caught.value.free) == (3 * GIB, 2 * GIB)
    assert runtime.cleared == 1  # or torch, in the same process, would take it for its own
    held.free()
    assert runtime.held == {}


def test_buffers_made_before_the_one_that_fails_do_not_stay(runtime):
    def several():
        return {size: cuda.Buffer(size * GIB) for size in (1, 2, 9)}

    with pytest.raises(OutOfMemory):
        several()
    gc.collect()
    assert runtime.held == {}


def test_a_buffer_is_freed_once(runtime):
    buffer = cuda.Buffer(GIB)
    buffer.free()
    buffer.free()
    del buffer
    gc.collect()
    assert runtime.held == {}


def test_no_room_even_for_a_context(runtime, monkeypatch):
    runtime.statuses["cudaMemGetInfo"] = NO_MEMORY
    monkeypatch.setattr(nvml, "device_memory", lambda: (100 << 20, 8 * GIB))
    with pytest.raises(OutOfMemory, match=r"while starting CUDA: 100\.0 MiB of 8\.0 GiB free"):
        cuda.memory()


def test_a_driver_too_old_for_the_runtime(runtime):
    runtime.driver, runtime.statuses = 12020, {"cudaGetDeviceCount": TOO_OLD}
    with pytest.raises(UnavailableError, match="insufficient for CUDA runtime") as caught:
        cuda.device_count()
    assert caught.value.hint == (
        "the driver is for CUDA 12.2, the runtime is 13.5: update the driver"
    )


def test_no_driver_at_all(runtime):
    runtime.driver, runtime.statuses = 0, {"cudaGetDeviceCount": TOO_OLD}
    with pytest.raises(UnavailableError) as caught:
        cuda.device_count()
    assert caught.value.hint == "there is no NVIDIA driver on this machine"


def test_a_device_that_somebody_holds_for_himself(runtime):
    runtime.statuses = {"cudaStreamCreateWithFlags": BUSY}
    with pytest.raises(UnavailableError, match="busy or unavailable") as caught:
        cuda.Stream()
    assert "nvidia-smi" in caught.value.hint


def test_no_device(runtime):
    runtime.statuses = {"cudaGetDeviceCount": NO_DEVICE}
    with pytest.raises(UnavailableError, match="no CUDA-capable device is detected"):
        cuda.device_count()


def test_the_calls_that_only_faults_need_are_in_the_real_library():
    try:
        library = cuda._runtime()
    except UnavailableError:
        pytest.skip("no CUDA runtime")
    version = ctypes.c_int()
    assert library.cudaDriverGetVersion(ctypes.byref(version)) == 0
    assert library.cudaRuntimeGetVersion(ctypes.byref(version)) == 0 and version.value > 11000
    assert hasattr(library, "cudaGetLastError")
