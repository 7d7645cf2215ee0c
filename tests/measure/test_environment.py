"""The environment: read, not guessed; its fingerprint changes with what matters and no more."""

import platform

import pytest

from diffc.measure.environment import Environment, fingerprint, read_environment


@pytest.fixture(scope="module")
def here():
    return read_environment()


def test_it_is_this_machine(here):
    assert here.python == platform.python_version()
    assert here.cores >= 1 and here.memory_bytes > 1 << 28
    assert here.packages["numpy"] == __import__("numpy").__version__
    assert Environment.model_validate_json(here.model_dump_json()) == here


def test_fingerprint_ignores_the_moment(here):
    later = {**here.model_dump(), "load": (9.0, 9.0, 9.0), "clock_mhz": 1.0}
    later["packages"] = {**later["packages"], "diffc": "99"}
    assert fingerprint(later) == here.fingerprint


@pytest.mark.parametrize(
    "change", [{"cpu": "another"}, {"cores": 999}, {"packages": {"onnxruntime": "0.1"}}]
)
def test_fingerprint_changes_with_what_matters(here, change):
    assert fingerprint({**here.model_dump(), **change}) != here.fingerprint


@pytest.fixture
def cut_and_shared(monkeypatch):
    """A GPU that is cut into slices and that another process uses."""
    from diffc_runtime import machine
    from diffc_runtime.machine import nvml

    gpu = machine.gpu.parse_gpu("NVIDIA H100, 9.0, 580.1, 81559, 345, 1980")
    monkeypatch.setattr(machine.gpu, "gpus", lambda: (gpu,))
    monkeypatch.setattr(nvml, "driver_cuda", lambda: (13, 0))
    monkeypatch.setattr(
        nvml, "slices", lambda i: (nvml.MigSlice("NVIDIA H100 MIG 1g.10gb", 10 << 30),)
    )
    monkeypatch.setattr(nvml, "busy", lambda i: "process 3 holds 1.0 GiB of it")
    return read_environment()


def test_slices_drivers_and_other_processes_are_reported(cut_and_shared):
    (gpu,) = cut_and_shared.gpus
    assert gpu.cuda == "13.0" and gpu.mig == ["NVIDIA H100 MIG 1g.10gb, 10240 MiB"]
    assert gpu.busy == "process 3 holds 1.0 GiB of it"


def test_who_uses_the_gpu_is_of_the_moment_its_slices_are_not(cut_and_shared):
    found = cut_and_shared.model_dump()
    idle, whole = ([{**found["gpus"][0], **change}] for change in ({"busy": None}, {"mig": None}))
    assert fingerprint({**found, "gpus": idle}) == cut_and_shared.fingerprint
    assert fingerprint({**found, "gpus": whole}) != cut_and_shared.fingerprint


def test_doctor_says_it(cut_and_shared):
    from diffc.cli.doctor import gpu_lines

    gpus = cut_and_shared.model_dump()["gpus"]
    assert gpu_lines(gpus) == [
        "NVIDIA H100, compute capability 9.0, 81559 MiB, driver 580.1, CUDA 13.0",
        "  cut into slices (MIG), a program sees the first: NVIDIA H100 MIG 1g.10gb, 10240 MiB",
        "  warning: somebody else is using it, times will not hold: process 3 holds 1.0 GiB of it",
    ]
    empty = [{**gpus[0], "mig": [], "busy": None}]
    assert gpu_lines(empty)[1].endswith("none yet, so no program can use it")
