"""Bad ONNX files, engines and targets, all the way from the command line: a line, and a code.

The same faults are tested closer to where they are found in tests/targets; here none may end in a
traceback, and each message names the file, node, input or engine.
"""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from support.onnx_folder import write_handmade_folder
from typer.testing import CliRunner

from diffc.cli.app import app
from diffc.errors import DiffcError
from diffc_export.events import drain
from diffc_export.targets import target
from diffc_export.targets.base import BuildOptions
from diffc_runtime import machine

pytest.importorskip("onnxruntime")


@pytest.fixture
def onnx_folder(tmp_path):
    folder = write_handmade_folder(tmp_path / "mine")
    (folder / "model.json").unlink()  # a file from somewhere, which nobody described
    return folder


@pytest.fixture
def engine(tmp_path):
    folder = write_handmade_folder(tmp_path / "source")
    drain(target("ort-cpu").build(folder, BuildOptions(), tmp_path / "engine"))
    return tmp_path / "engine"


def refused(*args):
    """The error that ``diffc bench`` ends with."""
    done = CliRunner().invoke(app, ["bench", *map(str, args), "--seconds", "0"])
    assert isinstance(done.exception, DiffcError), (done.exception, done.output)
    assert "\n" not in str(done.exception) and done.stdout == ""
    return done.exception


def junk(path):
    path.write_bytes(b"junk" * 100)


def empty(path):
    path.write_bytes(b"")


def truncated(path):
    path.write_bytes(path.read_bytes()[:-100])


def without_external_data(path):
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (path.parent / "weights.bin").unlink()


def with_an_unknown_operator(path):
    model = onnx.load(path)
    node = helper.make_node("Frobnicate", ["h2"], ["h3"], name="my_node", domain="nobody")
    model.graph.node[6].CopyFrom(node)
    model.opset_import.append(helper.make_opsetid("nobody", 1))
    onnx.save(model, path)


def with_mixed_types(path):
    model = onnx.load(path)
    half = numpy_helper.from_array(np.zeros((1, 8, 3, 3), np.float16), "w2")
    names = [tensor.name for tensor in model.graph.initializer]
    model.graph.initializer[names.index("w2")].CopyFrom(half)
    onnx.save(model, path)


def with_open_dimensions(path):
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    onnx.save(model, path)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (junk, r"model.onnx is not an ONNX file"),
        (empty, r"model.onnx is empty"),
        (truncated, r"model.onnx is not an ONNX file, or was cut short"),
        (without_external_data, r"weights.bin, which is missing"),
        (with_an_unknown_operator, r"Frobnicate"),
        (with_mixed_types, r"conv_2"),
        (with_open_dimensions, r"'sample' has shape"),
    ],
)
def test_a_bad_onnx_file_is_named(onnx_folder, fault, said):
    fault(onnx_folder / "model.onnx")
    error = refused(onnx_folder / "model.onnx")
    assert said in str(error) and error.exit_code == 2


@pytest.mark.parametrize("fault", [junk, empty, truncated])
def test_an_engine_that_was_cut_or_altered_is_refused(engine, fault):
    fault(engine / "model.onnx")
    error = refused(engine)
    assert "model.onnx was cut or altered since it was built" in str(error)
    assert error.exit_code == 2 and error.hint == "build the engine again"


@pytest.mark.slow
def test_an_engine_of_another_machine_is_not_loaded(engine):
    """Its line stays, with both fingerprints; the other engine is measured."""
    content = json.loads((engine / "engine.json").read_text())
    other = shutil.copytree(engine, engine.parent / "other")
    content |= {"tied_to": ["gpu", "driver"], "device": {"gpu": "NVIDIA L4", "driver": "1"}}
    (other / "engine.json").write_text(json.dumps(content))
    args = ["bench", str(engine), str(other), "--seconds", "0", "--json"]
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 0, done.output
    first, second = json.loads(done.stdout)["rows"]
    assert first["figures"]["latency_ms"] and second["figures"]["latency_ms"] is None
    said = second["figures"]["absent"]
    assert "built for gpu NVIDIA L4, driver 1; here gpu" in said


def test_a_batch_that_the_engine_was_not_built_for(engine):
    assert "was not built for batch 7 (it was for 1)" in str(refused(engine, "--batch", "7"))


def test_trt_where_only_rtx_can_be_had_says_so_and_how(onnx_folder, monkeypatch):
    found = {"tensorrt-rtx-cu13": "1.7.1"}
    monkeypatch.setattr(machine.packages, "version", found.get)
    error = refused(onnx_folder / "model.onnx", "--target", "trt")
    assert "found tensorrt_rtx 1.7.1 (use --target trt-rtx)" in str(error)
    assert error.exit_code == 2


def test_a_precision_that_the_device_lacks(tmp_path):
    """ONNX Runtime computes fp16 convolutions in fp32 on a CPU: a silent fall-back is an error."""
    half = write_handmade_folder(tmp_path / "half", dtype=np.float16)
    error = refused(half)
    assert "fp16 was asked for, the built engine computes in fp32" in str(error)
    assert error.exit_code == 1
