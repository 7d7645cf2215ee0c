"""Targets that need a GPU, on a machine without one: one clear line each, from CUDA's own words."""

import pytest

from diffc.errors import UnavailableError
from diffc_export.events import drain
from diffc_export.targets import target
from diffc_export.targets.base import BuildOptions
from diffc_runtime import machine
from diffc_runtime.machine import cuda

pytestmark = pytest.mark.skipif(bool(machine.gpu.gpus()), reason="this machine has a GPU")


def test_every_cuda_call_is_in_the_runtime_library():
    """Names are checked against the real library, where it is installed."""
    import ast
    from pathlib import Path

    try:
        library = cuda._runtime()
    except UnavailableError:
        pytest.skip("no CUDA runtime")
    tree = ast.parse(Path(cuda.__file__).read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    names = {c.args[0].value for c in calls if getattr(c.func, "id", "") == "_call"}
    assert len(names) > 12
    assert [name for name in names if not hasattr(library, name)] == []


def test_no_driver_is_said_in_cudas_words():
    try:
        cuda._runtime()
    except UnavailableError:
        pytest.skip("no CUDA runtime")
    with pytest.raises(UnavailableError, match=r"cudaGetDeviceCount failed: .*driver"):
        cuda.device_count()


def test_ort_cuda_says_what_is_missing(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(machine.packages, "version", {"onnxruntime": "1.30"}.get)
    reason = target("ort-cuda").status().reason
    assert "diffc[cuda]" in reason and "uninstall onnxruntime first" in reason
    monkeypatch.setattr(machine.packages, "version", {"onnxruntime-gpu": "1.30"}.get)
    with pytest.raises(UnavailableError, match="cannot build here: no NVIDIA GPU"):
        drain(target("ort-cuda").build(folder, BuildOptions(), tmp_path / "e"))
