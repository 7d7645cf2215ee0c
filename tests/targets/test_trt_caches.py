"""What TensorRT learns is kept for the next time: after the engine, and never at its cost."""

import os
from dataclasses import replace
from types import SimpleNamespace

import pytest

from diffc_export.events import drain
from diffc_export.targets import trt_builder, trt_engine
from diffc_export.targets.base import BuildOptions
from diffc_export.targets.trt_rtx import TARGET
from diffc_export.targets.trt_target import TrtTarget
from diffc_runtime.libraries import tensorrt


def test_a_cache_is_written_whole_beside_others(tmp_path, monkeypatch):
    path = tmp_path / "timing" / "x.timing"
    names = []
    write = type(path).write_bytes
    monkeypatch.setattr(
        type(path), "write_bytes", lambda self, data: names.append(self.name) or write(self, data)
    )
    tensorrt.write_cache(path, b"other times")
    tensorrt.write_cache(path, b"times")
    assert path.read_bytes() == b"times" and os.listdir(path.parent) == ["x.timing"]
    assert len({path.name, *names}) == 3  # two writers never share a temporary file


def test_a_cache_that_cannot_be_kept_is_no_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    tensorrt.write_cache(tmp_path / "file" / "x.timing", b"times")
    config = SimpleNamespace(get_timing_cache=lambda: SimpleNamespace(serialize=lambda: b"times"))
    trt_builder.save_timing_cache(config, tmp_path / "file" / "x.timing")


class FakeEngine:
    """As far as a kernel cache uses one."""

    def create_runtime_config(self):
        cache = SimpleNamespace(serialize=lambda: b"kernels", deserialize=lambda data: None)
        return SimpleNamespace(create_runtime_cache=lambda: cache, set_runtime_cache=lambda c: None)


def test_kernels_are_kept_in_diffcs_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFC_CACHE", str(tmp_path / "cache"))
    cache = tensorrt.KernelCache(FakeEngine(), trt_engine.kernel_cache_path(TARGET.flavour))
    cache.save()
    (kept,) = (tmp_path / "cache").iterdir()
    assert kept.suffix == ".kernels" and kept.read_bytes() == b"kernels"
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("DIFFC_CACHE", str(tmp_path / "file"))
    tensorrt.KernelCache(FakeEngine(), trt_engine.kernel_cache_path(TARGET.flavour)).save()


def test_timings_are_saved_when_the_engine_is_there(folder, tmp_path, monkeypatch):
    """By the real builder of TensorRT for RTX, as if it were the one that has timings."""
    pytest.importorskip("tensorrt_rtx")
    target = TrtTarget(replace(TARGET.flavour, facts=replace(TARGET.facts, ahead_of_time=False)))
    there = []
    monkeypatch.setattr(target, "_can_build", lambda: None)
    monkeypatch.setattr(target, "_no_run_reason", lambda: "no GPU")
    monkeypatch.setattr(trt_builder, "_use_timing_cache", lambda *_: None)
    monkeypatch.setattr(
        trt_builder,
        "save_timing_cache",
        lambda config, path: there.append((tmp_path / "e" / "engine.json").is_file()),
    )
    drain(target.build(folder, BuildOptions(cache=tmp_path / "timing"), tmp_path / "e"))
    assert there == [True]
