"""The driver: missing, out of order, too old; told from fakes of what it is told from."""

import os
import subprocess
import sys
from importlib import metadata

import pytest

from diffc_export.targets import target
from diffc_runtime import machine
from diffc_runtime.machine import driver, nvml

GPU = machine.gpu.parse_gpu("NVIDIA A10G, 8.6, 535.104.05, 23028, 210, 1710")


@pytest.fixture
def no_gpu_listed(monkeypatch):
    monkeypatch.setattr(machine.gpu, "gpus", lambda: ())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def say(failure, on_bus=False):
        monkeypatch.setattr(machine.gpu, "nvidia_smi", lambda: ("", failure))
        monkeypatch.setattr(driver, "_on_the_bus", lambda: on_bus)
        return driver.no_gpu()

    return say


@pytest.fixture
def installed(monkeypatch):
    """Pretend that distributions are installed: name -> (version, requirements)."""

    def install(**packages):
        known = {name.replace("_", "-"): facts for name, facts in packages.items()}

        def requires(name):
            if name not in known:
                raise metadata.PackageNotFoundError(name)
            return known[name][1]

        monkeypatch.setattr(
            machine.packages, "version", lambda n: known[n][0] if n in known else None
        )
        monkeypatch.setattr(metadata, "requires", requires)
        driver.cuda_major.cache_clear()

    yield install
    driver.cuda_major.cache_clear()


def test_why_there_is_no_gpu(no_gpu_listed):
    assert no_gpu_listed(machine.gpu.NO_TOOL) == "no NVIDIA GPU here"
    assert "no driver for it" in no_gpu_listed(machine.gpu.NO_TOOL, on_bus=True)
    broken = "nvidia-smi says: Failed to initialize NVML: Driver/library version mismatch"
    assert no_gpu_listed(broken, on_bus=True) == broken


def test_a_gpu_that_is_hidden(no_gpu_listed, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES" in no_gpu_listed("")


def test_nvidia_smi_that_fails_gives_its_words(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'Driver/library version mismatch'; exit 18\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    machine.gpu.nvidia_smi.cache_clear()
    try:
        assert machine.gpu.nvidia_smi() == ("", "nvidia-smi says: Driver/library version mismatch")
        assert machine.gpu.gpus() == ()
    finally:
        machine.gpu.nvidia_smi.cache_clear()


def test_gpus_are_those_that_are_visible(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    rows = [f"NVIDIA {name}, 8.6, 580.1, 1000, 210, 1710, GPU-12{name}4-5" for name in "ABC"]
    tool.write_text("#!/bin/sh\n" + "".join(f"echo '{row}'\n" for row in rows))
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    machine.gpu.nvidia_smi.cache_clear()
    seen = {}
    try:
        for chosen in ("2,0", "1", "", "-1", "0,9,1", "MIG-1234", "GPU-12C4-5,GPU-12B", "GPU-12"):
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
            seen[chosen] = [(gpu.name[-1], gpu.index) for gpu in machine.gpu.gpus()]
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-12B")
        assert nvml._first_visible() == 1
    finally:
        machine.gpu.nvidia_smi.cache_clear()
    assert seen == {
        "2,0": [("C", 2), ("A", 0)], "1": [("B", 1)], "": [], "-1": [], "0,9,1": [("A", 0)],
        "MIG-1234": [("A", 0), ("B", 1), ("C", 2)],
        "GPU-12C4-5,GPU-12B": [("C", 2), ("B", 1)], "GPU-12": [],
    }  # fmt: skip


@pytest.mark.parametrize("package", ["diffc", "diffc_runtime"])
@pytest.mark.parametrize(("given", "used"), [(None, "PCI_BUS_ID"), ("FASTEST_FIRST",) * 2])
def test_cuda_numbers_gpus_as_nvidia_smi_does(package, given, used):
    """From the import on, so before any runtime starts CUDA; what somebody set is kept.

    A bundle has diffc_runtime alone: its engine's GPU was nvidia-smi's first, and it ran on CUDA's.
    """
    environment = {k: v for k, v in os.environ.items() if k != "CUDA_DEVICE_ORDER"}
    script = f"import os, {package}; print(os.environ['CUDA_DEVICE_ORDER'])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True,
        env=environment | ({"CUDA_DEVICE_ORDER": given} if given else {}),
    )  # fmt: skip
    assert done.stdout.strip() == used


def test_a_device_on_the_bus_is_seen_without_a_driver(tmp_path):
    def device(name, vendor, kind):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(vendor + "\n")
        (tmp_path / name / "class").write_text(kind + "\n")

    device("0000:00:01.0", "0x8086", "0x030000")  # another maker's display
    device("0000:00:02.0", "0x10de", "0x040300")  # NVIDIA's, but sound
    assert not driver._on_the_bus(tmp_path)
    device("0000:00:03.0", "0x10de", "0x030200")
    assert driver._on_the_bus(tmp_path)


@pytest.mark.parametrize(
    ("package", "version", "requires", "major"),
    [
        ("tensorrt-rtx-cu13", "1.7.1", [], 13),
        ("tensorrt", "11.4.0", ["tensorrt_cu13==11.4.0"], 13),
        ("tensorrt", "10.9.0", ["tensorrt-cu12==10.9.0"], 12),
        ("onnxruntime-gpu", "1.23", ['nvidia-cuda-runtime-cu12~=12.0; extra == "cuda"'], 12),
        ("onnxruntime-gpu", "1.31", ["numpy", 'nvidia-cuda-runtime~=13.0; extra == "cuda"'], 13),
        ("onnxruntime-gpu", "1.2", ["numpy>=1.21"], None),
    ],
)
def test_what_cuda_a_package_is_for(installed, package, version, requires, major):
    installed(**{package.replace("-", "_"): (version, requires)})
    assert driver.cuda_major(package) == major


def test_what_cuda_this_torch_is_for():
    import torch

    said = torch.version.cuda
    assert driver.torch_cuda() == (int(said.split(".")[0]) if said else None)


def test_a_driver_too_old_is_said_by_every_target_that_needs_it(installed, monkeypatch):
    installed(
        onnxruntime_gpu=("1.31.1", ['nvidia-cuda-runtime~=13.0; extra == "cuda"']),
        tensorrt=("11.4.0", ["tensorrt_cu13==11.4.0"]),
        tensorrt_rtx_cu13=("1.7.1", []),
        torch=("2.13.0+cu130", []),
        diffusers=("0.35", []),
    )
    monkeypatch.setattr(machine.gpu, "gpus", lambda: (GPU,))
    monkeypatch.setattr(machine.gpu, "nvidia_smi", lambda: ("one line", ""))
    monkeypatch.setattr(driver, "torch_cuda", lambda: 13)
    monkeypatch.setattr(nvml, "driver_cuda", lambda: (12, 2))
    for name in ("ort-cuda", "trt", "trt-rtx", "torch"):
        status = target(name).status()
        assert not status.runnable
        assert "the driver (535.104.05) is for CUDA 12.2" in status.reason
        assert "needs CUDA 13: update the driver to 580 or later" in status.reason
    assert target("trt-rtx").status().buildable and not target("trt").status().buildable
    monkeypatch.setattr(nvml, "driver_cuda", lambda: (13, 0))
    assert all(target(name).status().runnable for name in ("ort-cuda", "trt", "trt-rtx", "torch"))


def test_torch_for_the_processor_is_not_called_a_gpus(installed, monkeypatch):
    monkeypatch.setattr(machine.gpu, "gpus", lambda: (GPU,))
    monkeypatch.setattr(driver, "torch_cuda", lambda: None)
    assert "A10G" not in target("torch").status().device
    monkeypatch.setattr(driver, "torch_cuda", lambda: 13)
    assert target("torch").status().device == "NVIDIA A10G"


def test_a_provider_that_does_not_load_is_no_silent_fallback(folder):
    """ONNX Runtime takes the processor where CUDA's libraries are missing, and only logs it."""
    from diffc.errors import UnavailableError
    from diffc_runtime.libraries import ort

    runtime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in runtime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    options = ort.session_options(1)
    with pytest.raises(UnavailableError, match="cannot load its CUDAExecutionProvider") as caught:
        ort.open_session(folder / "model.onnx", options, [("CUDAExecutionProvider", {})])
    assert "cuDNN" in caught.value.hint
