"""A GPU's faults, brought about on a real one: no memory, somebody else on it."""

import gc
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
from support.gpu_targets import needs
from support.onnx_folder import write_handmade_folder

from diffc.errors import OutOfMemory
from diffc.measure.environment import read_environment
from diffc.measure.memory import measure_memory
from diffc_export.events import drain
from diffc_export.targets import target
from diffc_export.targets.base import BuildOptions
from diffc_runtime.machine import cuda, nvml

MIB = 1 << 20
BATCH = 4096
"""Rows of the large engine: 64 MiB of input, and about 1 GiB of activations."""


@contextmanager
def only(free):
    """All of the GPU's memory but ``free`` bytes is taken, in pieces as large as can be had."""
    held, piece = [], 1 << 34
    while piece >= 16 * MIB:
        if cuda.free_bytes() - piece < free:
            piece //= 2
            continue
        try:
            held.append(cuda.Buffer(piece))
        except OutOfMemory:
            piece //= 2
    try:
        yield
    finally:
        for buffer in held:
            buffer.free()


@pytest.fixture
def large_folder(tmp_path):
    return write_handmade_folder(tmp_path / "onnx", channels=16, size=64)


def large_inputs():
    return {
        "sample": np.ones((BATCH, 1, 64, 64), np.float32),
        "timestep": np.ones(BATCH, np.int64),
    }


def test_a_buffer_larger_than_the_gpu():
    free, total = cuda.memory()
    with pytest.raises(OutOfMemory, match=r"asked for, .* free") as caught:
        cuda.Buffer(2 * total)
    assert caught.value.asked == 2 * total
    assert abs(caught.value.free - free) < total // 2
    assert cuda.Buffer(MIB).address > 0  # the failure stays with that call


@pytest.mark.parametrize("name", ["ort-cuda", "trt", "trt-rtx"])
def test_a_run_without_memory_says_so_and_the_next_one_works(large_folder, tmp_path, name):
    runtime = needs(name)
    drain(runtime.build(large_folder, BuildOptions(batch=(BATCH,)), tmp_path / "e"))
    with only(free=300 * MIB), pytest.raises(OutOfMemory) as caught:
        runtime.load(tmp_path / "e")(large_inputs())
    assert caught.value.free is not None and caught.value.free < 1024 * MIB
    gc.collect()
    assert runtime.load(tmp_path / "e")(large_inputs())["out_sample"].shape[0] == BATCH


def test_a_build_without_memory_says_so(large_folder, tmp_path):
    """TensorRT times its kernels on real buffers, so a build needs the memory of a run."""
    with only(free=200 * MIB), pytest.raises(OutOfMemory, match=r"trt builds .* free"):
        drain(needs("trt").build(large_folder, BuildOptions(batch=(BATCH,)), tmp_path / "e"))
    assert not (tmp_path / "e").exists()


def test_torch_without_memory(engine):
    import torch

    runner = target("torch").load(engine("torch"))
    greedy = runner._model.conv_in.register_forward_hook(
        lambda *_: torch.empty(1 << 44, dtype=torch.uint8, device="cuda")
    )
    inputs = {"sample": np.ones((4, 1, 8, 8), np.float32), "timestep": np.arange(4)}
    with pytest.raises(OutOfMemory, match=r"16,384\.0 GiB asked for, .* GiB free"):
        runner(inputs)
    greedy.remove()
    assert runner(inputs)["out_sample"].shape == (4, 1, 8, 8)
    runner.close()
    assert torch.cuda.memory_reserved() < 1 << 30


def test_this_process_memory_follows_what_it_takes():
    cuda.free_bytes()
    before = nvml.process_bytes()
    if before is None:
        pytest.skip("the driver does not know this process by its number (a container)")
    held = cuda.Buffer(512 * MIB)
    assert 500 * MIB < nvml.process_bytes() - before < 600 * MIB
    held.free()
    assert nvml.process_bytes() - before < 100 * MIB


@pytest.mark.parametrize("name", ["torch", "ort-cuda", "trt", "trt-rtx"])
def test_an_engine_s_memory_is_measured(engine, name):
    found = measure_memory(engine(name), 4)
    assert found.device_how is not None and found.device_bytes > 0
    assert found.device_weights_bytes is not None


HOLDER = (
    "import sys; from diffc_export.targets import cuda; b = cuda.Buffer(512 << 20); "
    "print('held', flush=True); sys.stdin.read()"
)


def test_somebody_else_on_the_gpu_is_noticed():
    before = nvml.others()
    with subprocess.Popen([sys.executable, "-c", HOLDER], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as other:  # fmt: skip
        assert other.stdout.readline() == "held\n"
        now = nvml.others()
        said = nvml.busy()
        other.stdin.close()
    if now is None or (before == [] and now == []):
        pytest.skip("the driver lists no processes here (a container)")
    assert len(now) == len(before or []) + 1
    assert "holds" in said or "uses it" in said


def test_the_environment_has_the_driver_and_the_slices():
    import torch

    (first, *_) = read_environment().gpus
    assert first.cuda and first.driver and first.memory_mib > 0
    assert (first.mig is not None) == ("MIG" in torch.cuda.get_device_name(0))
