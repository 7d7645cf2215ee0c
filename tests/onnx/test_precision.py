"""Precision in the ONNX file: what is cast, what stays, and what a real builder makes of it."""

import json

import numpy as np
import onnx
import pytest
import torch
from safetensors.numpy import load_file
from support.onnx_folder import tiny_unet, write_handmade_folder

from diffc.errors import CheckFailed, InputError, RequestError, UnavailableError
from diffc.recipe import BuildSection
from diffc.stages.build import check_targets
from diffc_export.events import drain
from diffc_export.onnx import trials as module
from diffc_export.onnx.mixture import choose_fp32_layers
from diffc_export.onnx.precision import LOW, Lowering, convert_precision, fragile
from diffc_export.onnx.qdq import Pairs
from diffc_export.onnx.quantize import (
    QuantizeOptions,
    noise_levels,
    open_trials,
    quantize,
    trajectory_feeds,
)
from diffc_export.onnx.weights import ApartModel
from diffc_export.targets import target
from diffc_export.targets.base import BuildOptions
from diffc_export.targets.onnx_file import read_onnx

ort = pytest.importorskip("onnxruntime")

INT8 = Pairs()


@pytest.fixture
def folder(tmp_path):
    return write_handmade_folder(tmp_path / "onnx")


@pytest.fixture(scope="module")
def unet(unet_folder):
    return unet_folder


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


@pytest.mark.slow
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


def trials_of(source, scratch, pairs=INT8, trajectories=1, rows=None):
    """Mixtures of a model with its int8 twin, compared on the rows of trajectories."""
    feeds = drain(trajectory_feeds(source, QuantizeOptions(trajectories=trajectories)))
    return drain(open_trials(source, feeds, feeds[:rows], pairs, scratch, 1))


@pytest.mark.slow
def test_a_zero_point_is_finer_for_what_a_silu_gives(unet, tmp_path_factory):
    """Between -0.28 and its largest value: nearly half of the symmetric steps lie idle."""
    source = read_onnx(unet)
    graph = onnx.load(source.path).graph
    makers = {name: node for node in graph.node for name in node.output}
    first = {node.name: node.input[0] for node in graph.node if node.input}
    errors = {}
    for asymmetric in (False, True):
        trials = trials_of(source, tmp_path_factory.mktemp("q"), Pairs(asymmetric=asymmetric))
        after_silu = [
            name for name in trials.layers
            if first[name] in makers and makers[first[name]].op_type == "Mul"
        ]  # fmt: skip
        assert len(after_silu) > 8
        errors[asymmetric] = trials.error([n for n in trials.layers if n not in after_silu])
    assert 0 < errors[True] < 0.8 * errors[False]


def test_openvino_computes_with_zero_points(folder, tmp_path):
    pytest.importorskip("openvino")
    options = QuantizeOptions(trajectories=1, tolerance=9.0, asymmetric=True)
    drain(quantize(folder, tmp_path / "int8", options))
    info = drain(
        target("openvino").build(tmp_path / "int8", BuildOptions(batch=(4,)), tmp_path / "e")
    )
    assert info.precision_found == "int8" and info.precision_shares == {"int8": 1.0}
    tensors = load_file(folder / "reference.safetensors")
    inputs = {name: tensors[f"input.{name}"] for name in ("sample", "timestep")}
    session = ort.InferenceSession(tmp_path / "int8" / "model.onnx")
    expected = session.run(None, inputs)[0]
    (output,) = target("openvino").load(tmp_path / "e")(inputs).values()
    assert np.linalg.norm(output - expected) < 0.02 * np.linalg.norm(expected)


def test_zero_points_are_zero_where_the_runtime_wants_that(folder, tmp_path):
    """TensorRT refuses any other."""
    from onnx import numpy_helper

    kinds = {}
    for kind in (False, True):
        options = QuantizeOptions(trajectories=1, tolerance=9.0, asymmetric=kind)
        drain(quantize(folder, tmp_path / str(kind), options))
        graph = onnx.load(tmp_path / str(kind) / "model.onnx").graph
        held = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        points = [held[n.input[2]] for n in graph.node if n.op_type == "DequantizeLinear"]
        kinds[kind] = {(p.dtype.name, bool(p.any())) for p in points}
    assert kinds[False] == {("int8", False)}
    assert ("uint8", True) in kinds[True]


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


def test_fully_quantised_back_to_fp32_is_the_model_itself(unet, tmp_path):
    """Keeping every layer gives the fp32 model bit for bit: nothing else went through int8."""
    trials = trials_of(read_onnx(unet), tmp_path, rows=2)
    assert len(trials.layers) > 20
    assert trials.error(trials.layers) == 0.0
    assert trials.error([]) > 0.0
    assert json.dumps(trials.layers)


def test_rows_that_decide_nothing_are_not_run(folder, tmp_path, monkeypatch):
    """The same layers as by every row of every mixture, and the same error, from fewer runs."""
    trials = trials_of(read_onnx(folder), tmp_path, trajectories=2)
    layers = trials.layers
    options = QuantizeOptions(tolerance=0.9 * trials.error([]))
    outputs, call = [], module.first_output

    def counted(session, row):
        outputs.append(row)
        return call(session, row)

    monkeypatch.setattr(module, "first_output", counted)
    work = dict.fromkeys(layers, 1.0)
    fast = drain(choose_fp32_layers(trials, layers, options, work))
    few = len(outputs)
    error = trials.error
    monkeypatch.setattr(trials, "error", lambda kept, _limit=None: error(kept))
    assert fast == drain(choose_fp32_layers(trials, layers, options, work))
    assert 0 < len(fast[0]) < len(layers) and fast[1] <= options.tolerance
    assert few < len(outputs) - few


def guarded_graph(eps):
    """y = x / Reshape(Max(x * x, eps)) + 1: the guard of a division as linear attention has it."""
    from onnx import helper, numpy_helper

    nodes = [
        helper.make_node("Mul", ["x", "x"], ["square"], name="square"),
        helper.make_node("Max", ["square", "eps"], ["guarded"], name="guard"),
        helper.make_node("Reshape", ["guarded", "shape"], ["moved"], name="move"),
        helper.make_node("Div", ["x", "moved"], ["ratio"], name="divide"),
        helper.make_node("Add", ["ratio", "one"], ["y"], name="after"),
    ]
    value = onnx.helper.make_tensor_value_info
    constants = {"eps": np.float32(eps), "one": np.float32(1), "shape": np.array([-1], np.int64)}
    graph = helper.make_graph(
        nodes,
        "guarded",
        [value("x", 1, ["batch"])],
        [value("y", 1, ["batch"])],
        [numpy_helper.from_array(np.array(array), name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize(
    ("eps", "precision", "kept"),
    [
        (1e-15, "fp16", {"guard", "move", "divide"}),
        (1e-3, "fp16", set()),
        (1e6, "fp16", {"guard", "move", "divide"}),
        (1e-15, "bf16", set()),
    ],
)
def test_nodes_beside_a_constant_that_is_lost_stay_in_fp32(eps, precision, kept):
    assert fragile(guarded_graph(eps).graph, LOW[precision]) == kept


def test_division_guarded_by_a_tiny_constant_stays_finite(tmp_path):
    """All in fp16, 0 / 0 is not a number: exactly what happens when nothing is kept."""
    model = guarded_graph(1e-15)
    x = np.array([0.0, 1.0, -2.0], np.float32)

    def run_lowered(kept):
        lowered = onnx.shape_inference.infer_shapes(model)
        Lowering(ApartModel(lowered), LOW["fp16"], kept).run()
        session = ort.InferenceSession(
            lowered.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        return session.run(None, {"x": x})[0]

    assert not np.isfinite(run_lowered(frozenset())[0])
    kept = fragile(onnx.shape_inference.infer_shapes(model).graph, LOW["fp16"])
    np.testing.assert_allclose(run_lowered(kept), [1.0, 2.0, 0.5], rtol=1e-3)


@pytest.mark.slow
def test_fp8_is_what_the_rtx_builder_finds_and_nobody_else_takes(unet, tmp_path):
    options = QuantizeOptions(trajectories=1, tolerance=0.3)
    described = drain(quantize(unet, tmp_path / "fp8", options, precision="fp8"))
    assert described["precision"] == "fp8" and 1e-3 < described["fp8_error"] <= 0.3
    graph = onnx.load(tmp_path / "fp8" / "model.onnx").graph
    types = [t.data_type for t in graph.initializer]
    assert types.count(onnx.TensorProto.FLOAT8E4M3FN) > 20
    assert onnx.TensorProto.INT8 not in types
    assert 1e-3 < run(tmp_path / "fp8", unet) < 0.3
    with pytest.raises(CheckFailed, match=r"fp8 was asked for, the built engine computes in fp32"):
        drain(target("ort-cpu").build(tmp_path / "fp8", BuildOptions(), tmp_path / "e"))
    if target("trt-rtx").status().buildable:
        for gpu in ("sm89", "sm120"):
            build = target("trt-rtx").build(
                tmp_path / "fp8", BuildOptions(gpu=(gpu,)), tmp_path / gpu
            )
            assert drain(build).precision_found == "fp8"
        with pytest.raises(UnavailableError, match="fp8 from sm89 on, not for sm86"):
            drain(
                target("trt-rtx").build(
                    tmp_path / "fp8", BuildOptions(gpu=("sm86",)), tmp_path / "x"
                )
            )


@pytest.mark.parametrize(
    ("name", "precision"), [("ort-cpu", "int8"), ("ort-cpu", "fp8"), ("openvino", "fp8")]
)
def test_precision_that_a_target_lacks_is_refused_before_the_work(name, precision):
    if not target(name).status().buildable:
        pytest.skip(f"no {name} here")
    with pytest.raises(UnavailableError, match=f"'{name}' does not compute in {precision} here"):
        check_targets(BuildSection(target=(name,), precision=precision))


def test_int8_on_onnx_runtime_is_no_silent_fall_back(folder, tmp_path):
    drain(quantize(folder, tmp_path / "int8", QuantizeOptions(tolerance=0.5)))
    with pytest.raises(CheckFailed, match="int8 was asked for, the built engine computes in fp32"):
        drain(target("ort-cpu").build(tmp_path / "int8", BuildOptions(), tmp_path / "e"))


def test_other_quantisations_are_refused(folder, tmp_path):
    with pytest.raises(RequestError, match="'int4'"):
        drain(quantize(folder, tmp_path / "x", QuantizeOptions(), precision="int4"))


def test_error_is_measured_at_every_noise_level(folder, tmp_path):
    """Trajectories never come near t = 0: what is promised holds at the reference's levels too."""
    model = read_onnx(folder)
    reference = load_file(folder / "reference.safetensors")
    levels = noise_levels(model)
    assert [int(row["timestep"][0]) for row in levels] == reference["input.timestep"].tolist()
    feeds = drain(trajectory_feeds(model, QuantizeOptions(trajectories=2)))
    steps = reference["trajectory.timesteps"].tolist()
    assert [int(row["timestep"][0]) for row in feeds] == [*steps, 0] * 2
    described = drain(quantize(folder, tmp_path / "int8", QuantizeOptions(tolerance=0.5)))
    session = ort.InferenceSession(tmp_path / "int8" / "model.onnx")
    for row, expected in zip(levels, reference["output"], strict=True):
        error = np.linalg.norm(session.run(None, row)[0][0] - expected) / np.linalg.norm(expected)
        assert error <= described["int8_error"] * 1.001


def test_a_layers_work_is_what_torch_counts(unet):
    """Convolutions and linear layers of the exported graph against torch's own FLOP counter."""
    from torch.utils.flop_counter import FlopCounterMode

    from diffc_export.onnx.layer_macs import layer_macs

    found = layer_macs(onnx.load(read_onnx(unet).path))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        tiny_unet()(torch.zeros(1, 1, 8, 8), torch.zeros(1, dtype=torch.long))
    counts = counter.get_flop_counts()["Global"]
    products = ("aten.convolution", "aten.addmm", "aten.mm")
    layers = [count for op, count in counts.items() if str(op) in products]
    assert sum(found.values()) == sum(layers) / 2
