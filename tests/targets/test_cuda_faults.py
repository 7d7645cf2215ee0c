"""CUDA's failures, from a stand-in for libcudart that gives its statuses and its words."""

import ctypes
import gc

import pytest
from support.fake_cuda import BUSY, GIB, NO_DEVICE, NO_MEMORY, TOO_OLD, FakeRuntime, installed

from diffc.errors import OutOfMemory, UnavailableError
from diffc_runtime.machine import cuda, nvml


@pytest.fixture
def runtime(monkeypatch):
    return installed(monkeypatch, FakeRuntime())


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
