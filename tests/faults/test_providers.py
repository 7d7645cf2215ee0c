"""A GPU's engine never runs on the processor in silence; a runtime's own errors are one line."""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from support.fake_cuda import FakeRuntime, installed
from support.fake_onnxruntime import Fail, install
from support.onnx_folder import write_handmade_folder

from diffc.errors import InputError, OutOfMemory, UnavailableError
from diffc.measure import environment, probe
from diffc.measure.engines import open_usable_engines
from diffc_export.events import drain
from diffc_export.targets import ort, ort_cpu, target
from diffc_export.targets.base import BuildOptions
from diffc_runtime import fit, machine
from diffc_runtime.engines import open_engine
from diffc_runtime.errors import UnfitEngine
from diffc_runtime.libraries import ort as library
from diffc_runtime.machine import cuda_libraries

INPUTS = {"sample": np.ones((1, 1, 8, 8), np.float32), "timestep": np.zeros(1, np.int64)}


@pytest.fixture
def sessions(monkeypatch):
    installed(monkeypatch, FakeRuntime())
    return install(monkeypatch)


@pytest.fixture
def engine(sessions, tmp_path):
    """An engine folder of ort-cuda, as it is built with a GPU."""
    onnx = write_handmade_folder(tmp_path / "onnx")
    drain(target("ort-cuda").build(onnx, BuildOptions(), tmp_path / "engine"))
    return tmp_path / "engine"


def test_the_target_refuses_a_session_on_the_processor(engine, sessions):
    sessions.uses = ["CPUExecutionProvider"]
    with pytest.raises(UnavailableError) as caught:
        target("ort-cuda").load(engine)
    assert "cannot load its CUDAExecutionProvider" in str(caught.value)
    assert "would compute with CPUExecutionProvider" in str(caught.value)


def test_a_served_engine_refuses_a_session_on_the_processor(engine, sessions):
    assert open_engine(engine).run(INPUTS).shape == (1, 1, 8, 8)
    sessions.uses = ["CPUExecutionProvider"]
    with pytest.raises(UnfitEngine) as caught:
        open_engine(engine)
    assert "would compute with CPUExecutionProvider" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_session_falls_back_after_an_error_of_a_call(engine, sessions):
    """ONNX Runtime's Python class would take the processor then, and print so to stdout."""
    target("ort-cuda").load(engine)
    open_engine(engine)
    assert len(sessions.opened) >= 3 and not any(s.fallback for s in sessions.opened)


def test_the_processors_own_sessions_are_read_back_too(tmp_path, monkeypatch):
    onnx = write_handmade_folder(tmp_path / "onnx")
    drain(target("ort-cpu").build(onnx, BuildOptions(), tmp_path / "e"))
    runtime = pytest.importorskip("onnxruntime")
    monkeypatch.setattr(runtime.InferenceSession, "get_providers", lambda self: ["AzureX"])
    with pytest.raises(UnavailableError, match="would compute with AzureX"):
        target("ort-cpu").load(tmp_path / "e")
    with pytest.raises(UnfitEngine, match="would compute with AzureX"):
        open_engine(tmp_path / "e")


# CUDA's libraries --------------------------------------------------------------------------------


@pytest.fixture
def nvidia(tmp_path, monkeypatch):
    """A folder of packages as PyTorch's lie, on the import path, and what was loaded of it."""
    cuda, cudnn = "cu13/lib/lib", "cudnn/lib/lib"
    for file in (f"{cuda}cublas.so.13", f"{cuda}cublasLt.so.13", f"{cudnn}cudnn.so.9",
                 f"{cudnn}cudnn_graph.so.9", f"{cuda}other.so.1"):  # fmt: skip
        path = tmp_path / "site" / "nvidia" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.syspath_prepend(tmp_path / "site")
    loaded: list[str] = []

    class Library:
        def __init__(self, name, *_):
            alone = Path(name).name == name
            needs = "libcudnn_graph.so.9" if name.endswith("libcudnn.so.9") else ""
            if alone or (needs and not any(path.endswith(needs) for path in loaded)):
                raise OSError(f"{name}: cannot open shared object file")
            loaded.append(name)

    monkeypatch.setattr(ctypes, "CDLL", Library)
    monkeypatch.setattr(sys, "platform", "linux")
    cuda_libraries.preload.cache_clear()
    yield loaded
    cuda_libraries.preload.cache_clear()


def test_cudas_libraries_are_loaded_from_pytorchs_packages(nvidia):
    """Each once, in whatever order they need one another, and nothing else."""
    mine = [path for path in cuda_libraries.preload() if "site/nvidia" in path]
    names = [Path(path).name for path in mine]
    assert sorted(names) == ["libcublas.so.13", "libcublasLt.so.13", "libcudnn.so.9",
                             "libcudnn_graph.so.9"]  # fmt: skip
    assert names.index("libcudnn_graph.so.9") < names.index("libcudnn.so.9")
    assert "torch" not in {Path(path).parent.name for path in nvidia}


def test_a_library_that_the_loader_finds_is_left_as_it_is(nvidia, monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name, *_: nvidia.append(name))
    assert cuda_libraries.preload() == ()
    assert all("/" not in name for name in nvidia)


def test_a_library_that_does_not_load_ends_nothing(nvidia, monkeypatch):
    def broken(name, *_):
        raise OSError("wrong ELF class")

    monkeypatch.setattr(ctypes, "CDLL", broken)
    assert cuda_libraries.preload() == ()


def test_the_target_the_probe_and_a_bundle_load_them_first(engine, sessions, monkeypatch):
    seen = []
    monkeypatch.setattr(cuda_libraries, "preload", lambda: seen.append(len(sessions.opened)))
    before = len(sessions.opened)
    target("ort-cuda").load(engine)
    assert seen == [before]
    open_engine(engine)
    assert seen == [before, before + 1]
    probe.import_runtime("ort-cuda")
    assert len(seen) == 3
    probe.import_runtime("ort-cpu")
    assert len(seen) == 3, "the processor needs none"


# The package that is imported --------------------------------------------------------------------


@pytest.fixture
def both(tmp_path, monkeypatch):
    """Both distributions installed; a function: which one's files an import finds."""
    monkeypatch.setattr(
        machine.packages, "version", {"onnxruntime": "1.30.0", "onnxruntime-gpu": "1.31.1"}.get
    )
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)

    def put(name: str, version: str) -> None:
        folder = tmp_path / "kit" / "onnxruntime"
        (folder / "capi").mkdir(parents=True, exist_ok=True)
        (folder / "__init__.py").touch()
        said = f"package_name = '{name}'\n__version__ = '{version}'\ncuda_version = '13.0'\n"
        (folder / "capi" / "build_and_package_info.py").write_text(said)
        monkeypatch.syspath_prepend(tmp_path / "kit")

    return put


def test_the_version_is_that_of_the_package_that_is_imported(both):
    both("onnxruntime-gpu", "1.31.1")
    assert ort.package() == ("onnxruntime-gpu", "1.31.1")
    assert target("ort-cpu").status().versions == {"onnxruntime-gpu": "1.31.1"}
    found = environment._packages()
    assert found["onnxruntime-gpu"] == "1.31.1" and "onnxruntime" not in found


def test_the_processors_package_in_front_of_the_gpus_is_named(both, monkeypatch):
    both("onnxruntime", "1.30.0")
    monkeypatch.setattr(machine.gpu, "gpus", lambda: ())
    status = target("ort-cuda").status()
    assert not status.runnable and not status.buildable
    assert "onnxruntime 1.30.0, which lies in front of onnxruntime-gpu 1.31.1" in status.reason
    assert target("ort-cpu").status().versions == {"onnxruntime": "1.30.0"}


def test_one_package_alone_is_what_its_metadata_says(monkeypatch):
    monkeypatch.setattr(machine.packages, "version", {"onnxruntime-gpu": "1.31.1"}.get)
    assert ort.package() == ("onnxruntime-gpu", "1.31.1")


# ONNX Runtime's own errors -----------------------------------------------------------------------


class RuntimeException(Exception):
    """Another of its classes; they have no base of their own."""


RuntimeException.__module__ = Fail.__module__


@pytest.mark.parametrize(
    "error",
    [Fail("[ONNXRuntimeError] : 1 : FAIL : no kernel"), RuntimeException("no kernel"),
     RuntimeError("no kernel\nat line 3")],
)  # fmt: skip
def test_whatever_onnx_runtime_raises_is_one_line_of_ours(error):
    named = library.failures_named("running x", on_gpu=False)
    with pytest.raises(UnavailableError) as caught, named:
        raise error
    assert str(caught.value).startswith("ONNX Runtime failed while running x: no kernel")
    assert "\n" not in str(caught.value)


def test_an_error_without_words_has_its_class(monkeypatch):
    with (
        pytest.raises(library.OrtFailed, match=r"running x: Fail$"),
        library.failures_named("running x", False),
    ):
        raise Fail("")


def test_memory_and_our_own_bugs_keep_their_classes():
    with pytest.raises(OutOfMemory), library.failures_named("running x", on_gpu=False):
        raise Fail("Failed to allocate memory for requested buffer of size 2830172160")
    with pytest.raises(ValueError, match="ours"), library.failures_named("running x", on_gpu=False):
        raise ValueError("ours")


def test_a_call_that_fails_is_one_line(engine, sessions):
    runner = target("ort-cuda").load(engine)
    runner(INPUTS)
    sessions.fails["enable_cuda_graph"] = "CUDA failure 700: an illegal memory access"
    with pytest.raises(UnavailableError, match="CUDA failure 700"):
        runner(INPUTS)


def test_a_call_of_the_processor_that_fails_is_one_line(tmp_path):
    pytest.importorskip("onnxruntime")
    onnx = write_handmade_folder(tmp_path / "onnx")
    drain(target("ort-cpu").build(onnx, BuildOptions(), tmp_path / "e"))
    runner = target("ort-cpu").load(tmp_path / "e")
    wrong = {**INPUTS, "sample": INPUTS["sample"].astype(np.float64)}
    bound = ort_cpu.OrtCpuCall(runner.session, runner.info, wrong, library.FirstCalls())
    with pytest.raises(UnavailableError, match="ONNX Runtime failed while running ort-cpu"):
        bound.run()


def test_an_engine_that_is_refused_at_load_is_absent_and_the_others_run(tmp_path, monkeypatch):
    """One that its runtime cannot read is no reason to lose what the others measured."""
    onnx = write_handmade_folder(tmp_path / "onnx")
    for name in ("ort-cpu", "fake"):
        drain(target(name).build(onnx, BuildOptions(), tmp_path / name))

    def refused(*_):
        raise InputError("ONNX Runtime refuses model.onnx: bad graph")

    monkeypatch.setattr(library, "open_session", refused)
    folders = {name: tmp_path / name for name in ("ort-cpu", "fake")}
    with open_usable_engines(folders, None) as (runners, reasons):
        assert list(runners) == ["fake"]
        assert reasons == {"ort-cpu": "ONNX Runtime refuses model.onnx: bad graph"}
    with pytest.raises(InputError), open_usable_engines(folders, None, strict=True):
        pass


def test_an_engine_of_a_gpu_still_fits_by_what_it_says(engine):
    info = json.loads((engine / "engine.json").read_text())
    assert fit.misfit(info) is None and info["versions"] == {"onnxruntime-gpu": "1.32"}


def test_a_runtime_that_cannot_run_one_batch_size_loses_no_other(tmp_path, monkeypatch):
    from diffc.measure.compare import measure_target
    from diffc.measure.engines import MeasureOptions
    from diffc.measure.latency import LatencyOptions
    from diffc_export.targets.fake import FakeEngine

    bind = FakeEngine.bind

    def fails(self, inputs):
        if len(inputs["sample"]) == 4:
            raise library.OrtFailed("running fake", "no kernel for batch 4")
        return bind(self, inputs)

    monkeypatch.setattr(FakeEngine, "bind", fails)
    onnx = write_handmade_folder(tmp_path / "onnx")
    for side in ("dense", "compressed"):
        drain(target("fake").build(onnx, BuildOptions(batch=(1, 4)), tmp_path / side))
    quick = LatencyOptions(rounds=3, seconds=0.0, warmup_seconds=0.0)
    options = MeasureOptions(latency=quick, memory=False)
    one, four = drain(measure_target(tmp_path / "dense", tmp_path / "compressed", options))
    assert one.speedup is not None and four.speedup is None
    assert four.absent == "ONNX Runtime failed while running fake: no kernel for batch 4"
