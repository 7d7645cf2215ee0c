"""Graphs apart from their weights, and networks that one protobuf message cannot hold."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from diffc.models.families import family
from diffc.models.families.examples import example_inputs
from diffc.models.onnx_export import export_denoiser
from diffc_export.events import drain
from diffc_export.onnx import weights
from diffc_export.onnx.precision import convert_precision
from diffc_export.onnx.quantize import QuantizeOptions, quantize
from diffc_export.targets.onnx_file import onnx_digest, read_onnx

ort = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def unet(unet_folder):
    return unet_folder


@pytest.fixture
def large_from(monkeypatch):
    """Files above so many bytes count as large."""

    def set_limit(nbytes):
        monkeypatch.setattr(weights, "LARGEST_SINGLE_FILE", nbytes)

    return set_limit


def same(model, other):
    return model.SerializeToString(deterministic=True) == other.SerializeToString(
        deterministic=True
    )


def run(path, feed):
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feed)[0]


def feed_of(rows=2):
    sample = np.random.default_rng(0).standard_normal((rows, 1, 8, 8)).astype(np.float32)
    return {"sample": sample, "timestep": np.array([10, 500][:rows])}


def test_a_skeleton_is_the_graph_without_its_large_weights(unet):
    model = onnx.load(unet / "model.onnx")
    small = weights.skeleton(model)
    assert small.ByteSize() < model.ByteSize() - 0.9 * weights.nbytes(model)
    assert [n.name for n in small.graph.node] == [n.name for n in model.graph.node]
    held = {t.name for t in small.graph.initializer}
    moved = {v.name for v in small.graph.input} - {v.name for v in model.graph.input}
    assert held | moved == {t.name for t in model.graph.initializer}
    assert moved and not held & moved


def test_a_change_that_changes_nothing_leaves_the_model_as_it_was(unet):
    model, before = onnx.load(unet / "model.onnx"), onnx.load(unet / "model.onnx")
    weights.on_skeleton(model, lambda skeleton: skeleton)
    names = [t.name for t in model.graph.initializer]
    assert sorted(names) == sorted(t.name for t in before.graph.initializer)
    for one in (model, before):
        ordered = sorted(one.graph.initializer, key=lambda t: t.name)
        kept = [onnx.TensorProto.FromString(t.SerializeToString()) for t in ordered]
        del one.graph.initializer[:]
        one.graph.initializer.extend(kept)
    assert same(model, before)


def test_inference_without_weights_finds_the_same_shapes(unet):
    model = onnx.load(unet / "model.onnx")
    del model.graph.value_info[:]
    whole = onnx.shape_inference.infer_shapes(model, data_prop=True)
    weights.on_skeleton(model, lambda s: onnx.shape_inference.infer_shapes(s, data_prop=True))
    found, expected = (
        {v.name: v.SerializeToString() for v in one.graph.value_info} for one in (model, whole)
    )
    assert found == expected and len(found) > 50


def test_weights_that_nothing_reads_any_more_are_dropped_and_new_ones_kept():
    big = np.arange(600, dtype=np.float32)
    nodes = [helper.make_node("Add", ["x", "a"], ["y"]), helper.make_node("Add", ["y", "b"], ["z"])]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("x", 1, [600])], [value("z", 1, [600])],
        [numpy_helper.from_array(big, "a"), numpy_helper.from_array(big * 2, "b")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)

    def change(skeleton):
        skeleton.graph.node[0].input[1] = "c"
        skeleton.graph.initializer.append(numpy_helper.from_array(np.float32([1]), "c"))
        return skeleton

    weights.on_skeleton(model, change)
    onnx.checker.check_model(model, full_check=True)
    assert {t.name for t in model.graph.initializer} == {"b", "c"}
    assert [v.name for v in model.graph.input] == ["x"]
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"x": big})[0], big * 3 + 1)


def test_weights_put_aside_are_the_same(unet, tmp_path):
    model, before = onnx.load(unet / "model.onnx"), onnx.load(unet / "model.onnx")
    weights.set_aside(model, tmp_path, "weights")
    assert model.ByteSize() < before.ByteSize() - 0.9 * weights.nbytes(before)
    assert weights.nbytes(model) == weights.nbytes(before)
    onnx.save(model, tmp_path / "light.onnx")
    np.testing.assert_array_equal(
        run(tmp_path / "light.onnx", feed_of()), run(unet / "model.onnx", feed_of())
    )
    again = onnx.load(tmp_path / "light.onnx")
    for tensor in again.graph.initializer:
        assert tensor.data_location == TensorProto.DEFAULT
        tensor.ClearField("data_location")
    assert same(again, before)


def test_nbytes_is_what_the_weights_take():
    tensors = [
        numpy_helper.from_array(np.zeros((3, 5), np.float32), "a"),
        numpy_helper.from_array(np.zeros(7, np.int8), "b"),
        helper.make_tensor("c", TensorProto.BFLOAT16, [4], [0.0] * 4),
        numpy_helper.from_array(np.zeros((0, 9), np.float64), "d"),
    ]
    model = helper.make_model(helper.make_graph([], "g", [], [], tensors))
    assert weights.nbytes(model) == 60 + 7 + 8


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8", "fp8"])
def test_a_large_file_is_converted_as_a_small_one(unet, tmp_path, large_from, precision):
    """Two files in, two files out, and the same numbers in them."""

    def converted(folder, out):
        if precision in ("fp16", "bf16"):
            return convert_precision(folder, out, precision)
        options = QuantizeOptions(trajectories=1, tolerance=9.0)
        return drain(quantize(folder, out, options, precision=precision))

    converted(unet, tmp_path / "small")
    large_from(10_000)
    folder = tmp_path / "onnx"
    folder.mkdir()
    for name in ("model.json", "reference.safetensors"):
        (folder / name).write_bytes((unet / name).read_bytes())
    weights.save(onnx.load(unet / "model.onnx"), folder / "model.onnx")
    text = (folder / "model.json").read_text()
    old = read_onnx(unet).content["sha256"]
    (folder / "model.json").write_text(text.replace(old, onnx_digest(folder)))
    assert [path.name for path in read_onnx(folder).files] == ["model.onnx", "model.onnx.data"]
    converted(folder, tmp_path / "large")
    assert (tmp_path / "large" / "model.onnx.data").is_file()
    assert read_onnx(tmp_path / "large").shares == read_onnx(tmp_path / "small").shares
    small, large = (onnx.load(tmp_path / name / "model.onnx") for name in ("small", "large"))
    values, expected = (
        {t.name: numpy_helper.to_array(t) for t in one.graph.initializer} for one in (large, small)
    )
    assert values.keys() == expected.keys()
    for name, one in expected.items():
        assert values[name].dtype == one.dtype
        if precision in ("int8", "fp8") and name.endswith("_scale") and not one.shape:
            np.testing.assert_allclose(values[name], one, rtol=1e-5)  # of ranges: test_qdq.py
        else:
            assert values[name].tobytes() == one.tobytes(), name
    assert {p.name for p in folder.iterdir()} == {
        "model.json", "model.onnx", "model.onnx.data", "reference.safetensors"
    }  # fmt: skip


def test_a_large_model_has_its_weights_in_a_second_file(unet, tmp_path, large_from):
    large_from(10_000)
    weights.save(onnx.load(unet / "model.onnx"), tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx.data").is_file()
    np.testing.assert_array_equal(
        run(tmp_path / "model.onnx", feed_of()), run(unet / "model.onnx", feed_of())
    )


@pytest.mark.slow
def test_a_network_above_two_gib_is_exported_and_converted(tmp_path):
    """634 M parameters, 2.5 GB in fp32: no protobuf message holds them."""
    from diffusers import DiTTransformer2DModel

    torch.manual_seed(0)
    model = DiTTransformer2DModel(
        num_attention_heads=44, attention_head_dim=128, num_layers=1, sample_size=4, patch_size=2,
        in_channels=4, out_channels=8, num_embeds_ada_norm=10,
    ).eval()  # fmt: skip
    dit = family("DiTTransformer2DModel")
    specs = dit.specs(model.config)
    inputs = example_inputs(specs, model.config, 2)
    with torch.no_grad():
        expected = dit.call(model, inputs).numpy()
    export_denoiser(model, dit, specs, tmp_path / "onnx")
    del model
    read = read_onnx(tmp_path / "onnx")
    assert sum(path.stat().st_size for path in read.files) > 2**31
    assert [path.name for path in read.files] == ["model.onnx", "model.onnx.data"]
    feed = {name: value.numpy() for name, value in inputs.items()}
    found = run(tmp_path / "onnx" / "model.onnx", feed)
    assert np.linalg.norm(found - expected) < 1e-4 * np.linalg.norm(expected)
    convert_precision(tmp_path / "onnx", tmp_path / "half", "fp16")
    assert read_onnx(tmp_path / "half").shares == {"fp16": 1.0}
    found = run(tmp_path / "half" / "model.onnx", feed)
    assert np.linalg.norm(found - expected) < 1e-2 * np.linalg.norm(expected)
