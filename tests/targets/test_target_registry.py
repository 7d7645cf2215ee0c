"""Targets by name; statuses that never raise; nothing heavy imported on the way."""

import subprocess
import sys

import pytest

from diffc.errors import RequestError, UnavailableError
from diffc_export.events import drain
from diffc_export.targets import names, target, trt_builder
from diffc_export.targets.base import BuildOptions
from diffc_runtime import machine


def test_names_are_the_contract():
    assert names() == ["openvino", "ort-cpu", "ort-cuda", "trt", "trt-rtx", "torch"]


@pytest.mark.parametrize("name", names())
def test_every_target_says_what_it_can_do(name):
    status = target(name).status()
    assert target(name).facts.name == name
    whole = status.installed and status.buildable and status.runnable
    assert bool(status.reason) == (not whole)
    assert "\n" not in status.reason


def test_unknown_target_names_the_nearest():
    with pytest.raises(RequestError, match="unknown target 'tensorrt'") as caught:
        target("tensorrt")
    assert caught.value.hint
    with pytest.raises(RequestError) as caught:
        target("ort_cpu")
    assert "ort-cpu" in caught.value.hint


def test_statuses_import_no_runtime():
    script = (
        "import sys; from diffc_export.targets import names, target\n"
        "for n in names(): target(n).status()\n"
        "bad = {'torch', 'onnx', 'onnxruntime', 'openvino', 'tensorrt', 'tensorrt_rtx', 'pydantic'}"
        "\nprint(sorted(bad & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def _installed(monkeypatch, **versions):
    found = {name.replace("_", "-"): number for name, number in versions.items()}
    monkeypatch.setattr(machine.packages, "version", found.get)


def test_missing_onnxruntime_says_which_extra(monkeypatch):
    _installed(monkeypatch)
    assert "pip install 'diffc[cpu]'" in target("ort-cpu").status().reason


def test_trt_where_only_rtx_is_says_so_and_how(monkeypatch, folder, tmp_path):
    _installed(monkeypatch, tensorrt_rtx_cu13="1.7.1.116")
    words = r"needs tensorrt >= 10\.9.*found tensorrt_rtx 1\.7\.1\.116 \(use --target trt-rtx\)"
    with pytest.raises(UnavailableError, match=words) as caught:
        drain(target("trt").build(folder, BuildOptions(), tmp_path / "e"))
    assert "diffc[trt]" in caught.value.hint


def test_trt_too_old_says_which_is_needed(monkeypatch):
    _installed(monkeypatch, tensorrt="10.0.1")
    assert "needs tensorrt >= 10.9, found 10.0.1" in target("trt").status().reason


def test_gpus_are_read_from_nvidia_smi():
    gpu = machine.gpu.parse_gpu("NVIDIA A10G, 8.6, 570.86.15, 23028, 210, 1710")
    assert (gpu.name, gpu.sm, gpu.memory_mib, gpu.max_clock_mhz) == (
        "NVIDIA A10G",
        "sm86",
        23028,
        1710,
    )
    assert machine.gpu.parse_gpu("GPU, 9.0, 1, 10, [N/A], [N/A]").clock_mhz is None


@pytest.mark.parametrize(("text", "number"), [("sm86", 86), ("8.9", 89), ("SM_120", 120)])
def test_compute_capabilities_are_read(text, number):
    assert trt_builder.capability(text) == number
