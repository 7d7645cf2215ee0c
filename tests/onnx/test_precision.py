"""Precision in the ONNX file: what is cast, what stays, and what a real builder makes of it."""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file

sys.path.insert(0, str(Path(__file__).parents[1]))

from onnx_folder import shared_unet_folder, write_handmade_folder

from diffc.errors import CheckFailed, InputError, RequestError
from diffc.events import drain
from diffc.onnx.precision import LOW, convert_precision
from diffc.onnx.quantize import QuantizeOptions, quantize
from diffc.targets import target
from diffc.targets.base import BuildOptions
from diffc.targets.onnx_file import read_onnx

ort = pytest.importorskip("onnxruntime")


@pytest.fixture
def folder(tmp_path):
    return write_handmade_folder(tmp_path / "onnx")


@pytest.fixture(scope="module")
def unet():
    return shared_unet_folder()


def run(folder, reference):
    session = ort.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    tensors = load_file(reference / "reference.safetensors")
    inputs = {name: tensors[f"input.{name}"] for name in ("sample", "timestep")}
    found = session.run(None, inputs)[0]
    return np.linalg.norm(found - tensors["output"]) / np.linalg.norm(tensors["output"])


def test_unet_in_half_precision_computes_the_same(unet, tmp_path):
    described = convert_precision(unet, tmp_path / "half", "fp16")
    assert described["precision"] == "fp16"
    assert 1e-5 < run(tmp_path / "half", unet) < 5e-3
    model = read_onnx(tmp_path / "half")  # hashes, types and description hold
    assert [s.dtype for s in (*model.inputs, *model.outputs)] == ["float32", "int64", "float32"]
    assert load_file(tmp_path / "half" / "reference.safetensors").keys()


@pytest.mark.parametrize("precision", sorted(LOW))
def test_every_layers_weights_are_low(unet, tmp_path, precision):
    convert_precision(unet, tmp_path / "low", precision)
    graph = onnx.load(tmp_path / "low" / "model.onnx").graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    layers = [n for n in graph.node if n.op_type in ("Conv", "Gemm")]
    assert len(layers) > 10
    assert {types[n.input[1]] for n in layers} == {LOW[precision]}
    casts = sum(n.op_type == "Cast" for n in graph.node)
    assert casts < 20, "casts are where precisions meet, not around every node"


@pytest.mark.parametrize("precision", sorted(LOW))
def test_a_builder_finds_what_was_written(unet, tmp_path, precision):
    pytest.importorskip("tensorrt_rtx")
    convert_precision(unet, tmp_path / "low", precision)
    options = BuildOptions(gpu=("sm89",), precision=precision)
    info = drain(target("trt-rtx").build(tmp_path / "low", options, tmp_path / "e"))
    assert info.precision_found == precision and info.precision_shares == {precision: 1.0}


def test_sensitive_nodes_stay_in_fp32(folder, tmp_path):
    convert_precision(folder, tmp_path / "half", "fp16", sensitive=["conv_1"])
    graph = onnx.load(tmp_path / "half" / "model.onnx").graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    weight = {n.name: types[n.input[1]] for n in graph.node if n.op_type == "Conv"}
    assert weight == {"conv_1": 1, "conv_2": LOW["fp16"]}
    assert run(tmp_path / "half", folder) < 5e-3


def test_what_cannot_be_converted_is_refused(folder, tmp_path):
    with pytest.raises(RequestError, match="'fp12'"):
        convert_precision(folder, tmp_path / "x", "fp12")
    convert_precision(folder, tmp_path / "half", "fp16")
    with pytest.raises(InputError, match="is fp16 already"):
        convert_precision(tmp_path / "half", tmp_path / "again", "fp16")


def test_int8_is_found_by_builders_and_stays_close(folder, tmp_path):
    options = QuantizeOptions(trajectories=4, tolerance=0.05)
    described = drain(quantize(folder, tmp_path / "int8", options))
    assert described["precision"] == "int8"
    assert 1e-4 < described["int8_error"] <= 0.05
    assert 1e-4 < run(tmp_path / "int8", folder) < 0.1
    for name in ("openvino", "trt-rtx"):
        if target(name).status().buildable:
            build = target(name).build(
                tmp_path / "int8", BuildOptions(gpu=("sm89",)), tmp_path / name
            )
            assert drain(build).precision_found == "int8"


def test_worst_layer_is_the_one_kept(tmp_path):
    """A first convolution whose channels differ a thousandfold in what they are fed loses most."""
    folder = write_handmade_folder(tmp_path / "onnx", channels=8)
    loose = drain(quantize(folder, tmp_path / "a", QuantizeOptions(tolerance=1.0)))
    assert loose["kept_fp32"] == []
    tight = QuantizeOptions(tolerance=loose["int8_error"] * 0.9)
    kept = drain(quantize(folder, tmp_path / "b", tight))
    assert len(kept["kept_fp32"]) == 1
    assert kept["int8_error"] < loose["int8_error"]
    graph = onnx.load(tmp_path / "b" / "model.onnx").graph
    node = next(n for n in graph.node if n.name == kept["kept_fp32"][0])
    assert node.input[1] in {t.name for t in graph.initializer if t.data_type == 1}


def test_tolerance_that_int8_cannot_reach_is_said(folder, tmp_path):
    with pytest.raises(CheckFailed, match="int8 leaves an error"):
        drain(quantize(folder, tmp_path / "x", QuantizeOptions(tolerance=1e-9)))
    assert not (tmp_path / "x").exists()


def test_missing_reference_is_named(folder, tmp_path):
    (folder / "reference.safetensors").unlink()
    with pytest.raises(InputError, match="nothing to calibrate on"):
        drain(quantize(folder, tmp_path / "x", QuantizeOptions()))


def test_fully_quantised_back_to_fp32_is_the_model_itself(unet):
    """Keeping every layer gives the fp32 model bit for bit: nothing else went through int8."""
    from diffc.onnx.quantize import Comparison, _layers, _quantized, trajectory_feeds

    source = read_onnx(unet)
    feeds = drain(trajectory_feeds(source, QuantizeOptions(trajectories=1)))
    plain, whole = onnx.load(source.path), _quantized(source, feeds)
    layers = _layers(plain, whole)
    assert len(layers) > 20
    session = Comparison(plain, whole, layers, feeds[:2], 1)
    assert session.error(layers) == 0.0
    assert session.error([]) > 0.0
    assert json.dumps(layers)
