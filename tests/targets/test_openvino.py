"""openvino on real files: outputs, precisions read back, shapes, refusals."""

import numpy as np
import onnx
import pytest
from onnx import helper
from safetensors.numpy import load_file

from diffc.errors import InputError, UnavailableError
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
