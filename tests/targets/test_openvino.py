"""openvino on real files: outputs, precisions read back, shapes, refusals."""

import json

import numpy as np
import onnx
import pytest
from onnx import helper
from safetensors.numpy import load_file

from diffc.errors import InputError, OutOfMemory, UnavailableError
from diffc_export.events import drain
from diffc_export.targets import openvino as module
from diffc_export.targets import target
from diffc_export.targets.base import BuildOptions

ov = pytest.importorskip("openvino")
HAS_BF16 = "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def build(folder, out, **options):
    return drain(target("openvino").build(folder, BuildOptions(**options), out))


def rows(folder, n=4):
    reference = load_file(folder / "reference.safetensors")
    inputs = {name: reference[f"input.{name}"][:n] for name in ("sample", "timestep")}
    return inputs, reference["output"][:n]


def relative(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def test_engine_computes_what_numpy_does_at_every_batch(folder, tmp_path):
    info = build(folder, tmp_path / "e", batch=(1, 4))
    assert info.precision_found == "fp32" and info.precision_shares == {"fp32": 1.0}
    runner = target("openvino").load(tmp_path / "e")
    for n in (4, 1):
        inputs, expected = rows(folder, n)
        assert relative(runner(inputs)["out_sample"], expected) < 1e-5
        bound = runner.bind(inputs)
        assert bound.run() > 0
        np.testing.assert_array_equal(bound.outputs()["out_sample"], runner(inputs)["out_sample"])


def test_outputs_are_kept_when_the_engine_runs_again(folder, tmp_path):
    build(folder, tmp_path / "e", batch=(4,))
    runner = target("openvino").load(tmp_path / "e")
    inputs, expected = rows(folder)
    first = runner(inputs)["out_sample"]
    runner({**inputs, "sample": inputs["sample"] * 0})
    assert relative(first, expected) < 1e-5


@pytest.mark.skipif(not HAS_BF16, reason="this processor has no bf16")
def test_bf16_by_hint_is_found_and_differs(folder, tmp_path):
    info = build(folder, tmp_path / "e", batch=(4,), precision="bf16")
    assert (info.precision_asked, info.precision_found) == ("bf16", "bf16")
    inputs, expected = rows(folder)
    found = target("openvino").load(tmp_path / "e")(inputs)["out_sample"]
    assert 1e-5 < relative(found, expected) < 3e-2


def test_precision_to_state_at_load_is_written_down(folder, tmp_path):
    """Without it OpenVINO takes bf16 by itself where the processor has it."""
    info = build(folder, tmp_path / "e", batch=(4,))
    settings = info.details["settings"]
    compiled = ov.Core().compile_model(str(tmp_path / "e" / "model.xml"), "CPU", settings)
    assert compiled.get_property("INFERENCE_PRECISION_HINT") == ov.Type.f32


def test_static_engine_is_static(folder, tmp_path):
    build(folder, tmp_path / "e", batch=(2,))
    model = ov.Core().read_model(tmp_path / "e" / "model.xml")
    assert list(model.input("sample").shape) == [2, 1, 8, 8]


def test_precision_the_processor_lacks_is_refused(monkeypatch, folder, tmp_path):
    monkeypatch.setitem(module._CAPABILITIES, "bf16", "NOT_IN_ANY_PROCESSOR")
    with pytest.raises(UnavailableError, match="does not compute in bf16") as caught:
        build(folder, tmp_path / "e", precision="bf16")
    assert "fp32" in caught.value.hint


def test_precision_that_no_hint_gives_is_refused(folder, tmp_path):
    with pytest.raises(InputError, match="is fp32, int8 was asked for"):
        build(folder, tmp_path / "e", precision="int8")


def test_unknown_operator_is_named(folder, tmp_path):
    model = onnx.load(folder / "model.onnx")
    model.graph.node[6].CopyFrom(
        helper.make_node("Frobnicate", ["h2"], ["h3"], name="my_node", domain="nobody")
    )
    model.opset_import.append(helper.make_opsetid("nobody", 1))
    (folder / "model.json").write_text((folder / "model.json").read_text().replace("sha256", "x"))
    onnx.save(model, folder / "model.onnx")
    with pytest.raises(InputError, match="Frobnicate") as caught:
        build(folder, tmp_path / "e")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "e").exists()


def test_unet_engine_computes_what_torch_did(unet_folder, tmp_path):
    build(unet_folder, tmp_path / "e", batch=(4,))
    inputs, expected = rows(unet_folder)
    assert relative(target("openvino").load(tmp_path / "e")(inputs)["out_sample"], expected) < 1e-5


@pytest.mark.parametrize(
    "words, kind", [("no kernel", UnavailableError), ("bad_alloc", OutOfMemory)]
)
def test_a_call_that_openvino_cannot_do_is_one_line(folder, tmp_path, monkeypatch, words, kind):
    build(folder, tmp_path / "e", batch=(1,))
    runner, (inputs, _) = target("openvino").load(tmp_path / "e"), rows(folder, 1)

    def fails(*_, **__):
        raise RuntimeError(
            f"Exception from src/infer.cpp:3:\nCheck 'x' failed at src/a.cpp:4:\n{words}"
        )

    monkeypatch.setattr(ov.InferRequest, "infer", fails)
    monkeypatch.setattr(ov.InferRequest, "wait", fails)
    for call in (lambda: runner(inputs), runner.bind(inputs).run):
        with pytest.raises(kind) as caught:
            call()
        assert "running openvino on sample 1x1x8x8" in str(caught.value)
        assert "src/" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_size_that_a_graph_cannot_take_is_one_line(tmp_path):
    """Two levels of a U-Net that a side of three pixels does not divide into."""
    values = [helper.make_tensor_value_info(n, 1, ["b", 1, "h", "w"]) for n in ("sample", "out")]
    nodes = [
        helper.make_node("AveragePool", ["sample"], ["half"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Concat", ["half", "half"], ["wide"], axis=3),
        helper.make_node("Concat", ["wide", "wide"], ["two"], axis=2),
        helper.make_node("Add", ["sample", "two"], ["out"]),
    ]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:])
    opsets = [helper.make_opsetid("", 20)]
    folder = tmp_path / "onnx"
    folder.mkdir()
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), folder / "model.onnx")
    sample = {"name": "sample", "shape": [1, 4, 4], "dtype": "float32", "kind": "sample"}
    about = {"inputs": [{**sample, "sizes": [[4, 4], [3, 3]]}]}
    about["output"] = {"name": "out", "shape": [1, 4, 4]}
    (folder / "model.json").write_text(json.dumps(about))
    build(folder, tmp_path / "e", batch=(1,))
    runner = target("openvino").load(tmp_path / "e")
    assert runner({"sample": np.ones((1, 1, 4, 4), np.float32)})["out"].sum() == 32
    with pytest.raises(UnavailableError, match="OpenVINO failed while reading"):
        runner({"sample": np.ones((1, 1, 3, 3), np.float32)})
