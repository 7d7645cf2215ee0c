"""The precisions that an ONNX file has its layers in, and what engines of plain files say."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.onnx_folder import write_handmade_folder

from diffc_export.events import drain
from diffc_export.targets import target
from diffc_export.targets.base import BuildOptions
from diffc_export.targets.onnx_file import read_onnx
from diffc_export.targets.onnx_precision import file_elements, file_precision


def tensor(name, kind, *dims):
    return helper.make_tensor(name, kind, dims, [0] * int(np.prod(dims)))


def elements(nodes, *weights):
    return file_elements(helper.make_graph(nodes, "g", [], [], list(weights)))


def quantised(name, scale="s", zero="z"):
    """Q/DQ of one tensor: name -> name_dq."""
    return [
        helper.make_node("QuantizeLinear", [name, scale, zero], [name + "_q"]),
        helper.make_node("DequantizeLinear", [name + "_q", scale, zero], [name + "_dq"]),
    ]


SCALE = (tensor("s", TensorProto.FLOAT), tensor("z", TensorProto.INT8))
DQ_W = helper.make_node("DequantizeLinear", ["w", "s", "z"], ["w_dq"])


def test_floats_are_what_their_weights_are_or_are_cast_to():
    nodes = [
        helper.make_node("Conv", ["x", "h"], ["a"]),
        helper.make_node("Cast", ["h"], ["c"], to=TensorProto.BFLOAT16),
        helper.make_node("Transpose", ["c"], ["t"]),
        helper.make_node("MatMul", ["a", "t"], ["b"]),
        helper.make_node("Gemm", ["b", "f"], ["d"]),
        helper.make_node("MatMul", ["d", "d"], ["attention"]),
    ]
    weights = (tensor("h", TensorProto.FLOAT16, 2, 3), tensor("f", TensorProto.FLOAT, 4))
    assert elements(nodes, *weights) == [("fp16", 6), ("bf16", 6), ("fp32", 4)]


def test_weights_may_be_the_nodes_of_constants_on_either_side():
    value = helper.make_node("Constant", [], ["w"], value=tensor("", TensorProto.FLOAT16, 5))
    assert elements([value, helper.make_node("MatMul", ["w", "x"], ["y"])]) == [("fp16", 5)]


@pytest.mark.parametrize(
    ("kind", "name"), [(TensorProto.INT8, "int8"), (TensorProto.FLOAT8E4M3FN, "fp8")]
)
def test_a_layer_with_both_inputs_dequantised_is_quantised(kind, name):
    nodes = [*quantised("x"), DQ_W, helper.make_node("Conv", ["x_dq", "w_dq"], ["y"])]
    assert elements(nodes, tensor("w", kind, 2, 3), *SCALE) == [(name, 6)]
    exact = [*quantised("w"), *quantised("x"), helper.make_node("Conv", ["x_dq", "w_dq"], ["y"])]
    assert elements(exact, tensor("w", TensorProto.FLOAT, 2, 3), *SCALE) == [("int8", 6)]


def test_quantised_weights_alone_compute_in_floats():
    nodes = [DQ_W, helper.make_node("Conv", ["x", "w_dq"], ["y"])]
    assert elements(nodes, tensor("w", TensorProto.INT8, 2, 3), *SCALE) == [("fp32", 6)]


def test_a_file_is_called_by_what_is_quantised_else_by_what_is_most():
    assert file_precision({"int8": 0.2, "fp32": 0.8}) == "int8"
    assert file_precision({"fp16": 0.6, "fp32": 0.4}) == "fp16"
    assert file_precision({}) == "fp32"


def test_a_folder_and_a_plain_file_agree(tmp_path):
    folder = write_handmade_folder(tmp_path / "half", dtype=np.float16)
    for source in (folder, folder / "model.onnx"):
        assert read_onnx(source).shares == {"fp16": 1.0}
        assert read_onnx(source).precision == "fp16"


def build(name, source, out, **options):
    if not target(name).status().buildable:
        pytest.skip(target(name).status().reason)
    return drain(target(name).build(source, BuildOptions(**options), out))


def write_int8(folder):
    """The handmade file with Q/DQ around its second convolution."""
    path = folder / "model.onnx"
    model = onnx.load(path)
    (conv,) = (node for node in model.graph.node if node.name == "conv_2")
    weight = next(t for t in model.graph.initializer if t.name == "w2")
    scaled = np.clip(np.round(numpy_helper.to_array(weight) * 64), -127, 127).astype(np.int8)
    model.graph.initializer.append(numpy_helper.from_array(scaled, "w"))
    constants = {"s": np.float32(1 / 64), "z": np.int8(0)}
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    conv.input[:] = ["h3_dq", "w_dq"]
    nodes = list(model.graph.node)
    place = nodes.index(conv)
    nodes[place:place] = [*quantised("h3"), DQ_W]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, path)
    return path


def test_ort_cpu_says_what_it_makes_of_a_plain_half_file(tmp_path):
    folder = write_handmade_folder(tmp_path / "half", dtype=np.float16)
    info = build("ort-cpu", folder / "model.onnx", tmp_path / "e")
    assert info.precision_asked == "fp16"
    assert info.precision_found == max(info.precision_shares, key=info.precision_shares.get)


def test_openvino_computes_what_it_can_of_a_plain_half_file(tmp_path, monkeypatch):
    from diffc_export.targets import openvino

    folder = write_handmade_folder(tmp_path / "half", dtype=np.float16)
    pytest.importorskip("openvino")
    has = list(openvino._capabilities())
    monkeypatch.setattr(openvino, "_capabilities", lambda: [n for n in has if n != "FP16"])
    info = build("openvino", folder / "model.onnx", tmp_path / "e")
    assert (info.precision_asked, info.precision_found) == ("fp32", "fp32")
    sample = {"sample": np.ones((1, 1, 8, 8), np.float32), "timestep": np.ones(1, np.int64)}
    assert target("openvino").load(tmp_path / "e")(sample)["out_sample"].shape == (1, 1, 8, 8)


@pytest.mark.parametrize("name", ["ort-cpu", "openvino", "trt-rtx"])
def test_a_plain_int8_file_is_int8(tmp_path, name):
    path = write_int8(write_handmade_folder(tmp_path / "f"))
    model = read_onnx(path)
    assert model.precision == "int8" and 0.3 < model.shares["int8"] < 0.7
    options = {"gpu": ("sm89",)} if name == "trt-rtx" else {}
    info = build(name, path, tmp_path / "e", **options)
    assert info.precision_asked == "int8"
    assert info.precision_found in info.precision_shares
    if name != "ort-cpu":  # which has no such kernel, and says so
        assert info.precision_found == "int8"


def test_quantised_products_count_in_openvino(tmp_path):
    """OpenVINO transposes the constant weights of a fully connected layer while it runs."""
    weights = np.random.default_rng(0).integers(-100, 100, (32, 8)).astype(np.int8)
    constants = {"w": weights, "s": np.float32(1 / 64), "z": np.int8(0)}
    product = helper.make_node("MatMul", ["sample_dq", "w_dq"], ["out_sample"])
    graph = helper.make_graph(
        [*quantised("sample"), DQ_W, product],
        "product",
        [helper.make_tensor_value_info("sample", TensorProto.FLOAT, ["batch", 64, 32])],
        [helper.make_tensor_value_info("out_sample", TensorProto.FLOAT, ["batch", 64, 8])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "product.onnx")
    info = build("openvino", tmp_path / "product.onnx", tmp_path / "e", precision="int8")
    assert (info.details["heavy_layers"], info.precision_shares) == (1, {"int8": 1.0})
