"""Engine folders as diffc's targets write them, opened by the runtime."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil

import numpy as np
import pytest

from diffc_export.targets import target
from diffc_runtime import fit, machine, open_bundle
from diffc_runtime.bundles import fitting_engine, read_settings
from diffc_runtime.engines import batches, open_engine, read_info
from diffc_runtime.errors import BadRequest, UnfitEngine
from diffc_runtime.fit import misfit
from diffc_runtime.prompts import read_plan


def altered(engine, tmp_path, **changes):
    copy = tmp_path / "engine"
    shutil.copytree(engine, copy)
    info = json.loads((copy / "engine.json").read_text())
    (copy / "engine.json").write_text(json.dumps(info | changes))
    return copy


def test_runs_like_the_target_that_built_it(conditional):
    rng = np.random.default_rng(0)
    inputs = {
        "sample": rng.standard_normal((2, 3, 8, 8), dtype=np.float32),
        "timestep": np.array([10, 900]),
        "class_labels": np.array([1, 2]),
        "encoder_hidden_states": rng.standard_normal((2, 4, 5), dtype=np.float32),
    }
    theirs = target("ort-cpu").load(conditional, threads=1)(inputs)
    engine = open_engine(conditional, threads=1)
    np.testing.assert_array_equal(engine.run(inputs), next(iter(theirs.values())))
    assert engine.batches == ((1, 2),)
    assert [(i.name, i.shape, i.dtype, i.kind) for i in engine.inputs] == [
        ("sample", (3, 8, 8), "float32", "sample"),
        ("timestep", (), "int64", "timestep"),
        ("class_labels", (), "int64", "condition"),
        ("encoder_hidden_states", (4, 5), "float32", "condition"),
    ]


@pytest.mark.parametrize(
    ("target_name", "serves"),
    [("ort-cpu", ((1, 4),)), ("openvino", ((1, 1), (4, 4))), ("trt", ((1, 1), (4, 4)))],
)
def test_static_profiles_bind_all_but_onnxruntime(target_name, serves):
    shapes = [{key: [size, 3, 8, 8] for key in ("min", "opt", "max")} for size in (1, 4)]
    info = {"target": target_name, "profiles": [{"sample": shape} for shape in shapes]}
    assert batches(info) == serves
    assert batches({**info, "profiles": []}) == ()


def test_knows_this_machine_in_the_words_of_the_build():
    """Fingerprints written by diffc at the build are compared with the runtime's own."""
    device = {**machine.cpu.cpu_fingerprint(), **machine.gpu.gpu_fingerprint()}
    assert fit.machine_properties(list(device)) == device
    package, version = machine.packages.first_version("onnxruntime", "onnxruntime-gpu")
    assert fit.machine_properties([package, "no-such-package"]) == {
        package: version,
        "no-such-package": None,
    }


@pytest.mark.parametrize(
    ("chosen", "found"),
    [
        (None, "8.0"), ("0", "8.0"), ("1", "9.0"), ("1,0", "9.0"), ("GPU-bb", "9.0"),
        ("MIG-aa", "8.0"), ("", None), ("-1", None), ("7", None), ("GPU-cc", None),
    ],
)  # fmt: skip
def test_the_gpu_is_the_one_that_cuda_counts_first(monkeypatch, tmp_path, chosen, found):
    tool = tmp_path / "nvidia-smi"
    rows = "\n".join(f"{name}, 580.1, 81559, 210, 1980, {uuid}" for name, uuid in _GPUS)
    tool.write_text(f"#!/bin/sh\necho '{rows}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    machine.gpu.nvidia_smi.cache_clear()
    assert fit.machine_properties(["compute_capability"]) == {"compute_capability": found}
    machine.gpu.nvidia_smi.cache_clear()


_GPUS = [("NVIDIA A100, 8.0", "GPU-aa11"), ("NVIDIA H100, 9.0", "GPU-bb22")]


def test_refuses_an_engine_for_another_machine(engine, tmp_path):
    copy = altered(
        engine,
        tmp_path,
        tied_to=["compute_capability", "onnxruntime"],
        device={"compute_capability": "8.9"},
        versions={"onnxruntime": "0.1"},
    )
    with pytest.raises(
        UnfitEngine, match=r"built for compute_capability 8\.9, onnxruntime 0\.1; here: compute"
    ):
        open_engine(copy)  # fmt: skip


@pytest.mark.parametrize(
    ("built", "capability", "fits"),
    [
        (["sm86"], "8.6", True),
        (["sm86", "sm89"], "8.9", True),
        (["sm86"], "8.9", False),
        (["sm80+"], "12.0", True),
        (["sm80+"], "7.5", False),
        (["sm80+"], None, False),
    ],
)
def test_ahead_of_time_engines_name_their_gpus(monkeypatch, built, capability, fits):
    device = {"compute_capability": capability} if capability else {}
    monkeypatch.setattr(fit, "_device", lambda: device)
    info = {"target": "trt-rtx", "device": {}, "versions": {}, "tied_to": [], "built_for": built}
    reason = misfit(info)
    assert (reason is None) == fits
    if not fits:
        assert f"built for {', '.join(built)}; here: " in reason


def test_refuses_what_it_cannot_run(engine, tmp_path):
    with pytest.raises(UnfitEngine, match="'torch', which this runtime does not run"):
        open_engine(altered(engine, tmp_path, target="torch"))


@pytest.mark.parametrize("name", ["trt", "trt-rtx", "openvino"])
def test_says_which_runtime_is_missing(engine, tmp_path, name, monkeypatch):
    module = {"trt": "tensorrt", "trt-rtx": "tensorrt_rtx", "openvino": "openvino"}[name]
    monkeypatch.setitem(__import__("sys").modules, module, None)
    copy = altered(engine, tmp_path, target=name, tied_to=[], built_for=[])
    with pytest.raises(UnfitEngine, match=f"a '{name}' engine needs {module}"):
        open_engine(copy)


def test_refuses_a_cut_file(engine, tmp_path):
    copy = altered(engine, tmp_path)
    content = (copy / "model.onnx").read_bytes()
    (copy / "model.onnx").write_bytes(content[:-10])
    with pytest.raises(UnfitEngine, match="cut or altered"):
        open_engine(copy)
    (copy / "model.onnx").unlink()
    with pytest.raises(UnfitEngine, match=r"model\.onnx is missing"):
        open_engine(copy)


def test_a_file_without_the_right_to_read_it_is_one_line(engine, monkeypatch):
    def refused(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("diffc_runtime.engine_folder.file_digest", refused)
    with pytest.raises(UnfitEngine, match=r"model\.onnx cannot be read: Permission denied$"):
        open_engine(engine)
    monkeypatch.setattr("pathlib.Path.read_text", lambda path, *_: refused(path))
    for read, name in ((read_info, "engine"), (read_settings, "pipeline"), (read_plan, "text")):
        with pytest.raises(UnfitEngine, match=rf"{name}\.json cannot be read: Permission denied$"):
            read(engine)


@pytest.mark.parametrize("content", ["", "[]", '{"format": 99}', "{", '{"format": 1}'])
def test_refuses_another_pipeline_json(tmp_path, content):
    (tmp_path / "pipeline.json").write_text(content)
    with pytest.raises(UnfitEngine, match=r"pipeline\.json is (not of format|damaged)"):
        open_bundle(tmp_path)
    with pytest.raises(UnfitEngine, match=r"nowhere is not a bundle: it has no pipeline\.json"):
        open_bundle(tmp_path / "nowhere")


def test_a_file_beside_the_engines_is_none_of_them(engine, tmp_path):
    (tmp_path / "engine.zip").write_bytes(b"a copy that somebody keeps")
    shutil.copytree(engine, tmp_path / "engine")
    assert fitting_engine(tmp_path) == tmp_path / "engine"


@pytest.mark.parametrize("content", ["", "[]", '{"format": 99}', "{", '{"format": 1}'])
def test_refuses_another_engine_json(tmp_path, content):
    (tmp_path / "engine.json").write_text(content)
    with pytest.raises(UnfitEngine, match=r"engine\.json"):
        read_info(tmp_path)
    with pytest.raises(UnfitEngine, match="not an engine folder"):
        read_info(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("target_name", "serves"),
    [("ort-cpu", ((1, 4),)), ("openvino", ((1, 1), (4, 4))), ("trt", ((1, 1), (4, 4)))],
)
def test_several_resolutions_are_served_at_the_engines_own(target_name, serves):
    """Profiles for 8x8 and 16x16; the inputs say 8x8, and the larger batch is 16x16's alone."""
    shapes = [(1, 8), (4, 8), (1, 16), (4, 16), (9, 16)]
    profiles = [
        {"sample": {key: [rows, 3, side, side] for key in ("min", "opt", "max")}}
        for rows, side in shapes
    ]
    info = {
        "target": target_name,
        "profiles": profiles,
        "inputs": [{"name": "sample", "shape": [3, 8, 8]}],
    }
    assert batches(info) == serves


def test_what_a_runtime_raises_is_one_line_without_paths(engine, conditional, tmp_path):
    wrong = {"sample": np.zeros((1, 3, 9), np.float32), "timestep": np.zeros(1, np.int64)}
    with pytest.raises(UnfitEngine, match=r"the engine could not run: .*(rank|dimensions)"):
        open_engine(engine, threads=1).run(wrong)
    copy = altered(engine, tmp_path)
    (copy / "model.onnx").write_bytes(b"no model")
    info = json.loads((copy / "engine.json").read_text())
    digest = hashlib.sha256(b"no model").hexdigest()
    (copy / "engine.json").write_text(json.dumps(info | {"files": {"model.onnx": digest}}))
    with pytest.raises(UnfitEngine, match="cannot load the engine: ") as error:
        open_engine(copy)
    assert str(tmp_path) not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("threads", [0, -1])
def test_refuses_threads_below_one(engine, threads):
    with pytest.raises(BadRequest, match="threads must be 1 or more"):
        open_engine(engine, threads)
