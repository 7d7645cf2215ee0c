"""trt-rtx builds real engines here, without a GPU; nothing is said to have run."""

import time

import onnx
import pytest
from onnx import TensorProto, helper
from support.onnx_folder import write_handmade_folder

from diffc.errors import InputError, NotComparable, RequestError, UnavailableError
from diffc_export.events import drain
from diffc_export.targets import check_gpus, target, trt_builder
from diffc_export.targets.base import BuildOptions
from diffc_export.targets.trt_target import check_built_for
from diffc_runtime import machine

pytest.importorskip("tensorrt_rtx")


def build(folder, out, **options):
    return drain(target("trt-rtx").build(folder, BuildOptions(**options), out))


def test_engine_for_named_gpus(folder, tmp_path):
    info = build(folder, tmp_path / "e", batch=(1, 4), gpu=("sm86", "8.9"))
    assert info.built_for == ("sm86", "sm89")
    assert info.batches == (1, 4)
    assert info.precision_found == "fp32"
    assert info.details["precision_read_from"] == "strongly typed network"
    assert info.details["static"] is False
    assert info.engine_bytes == (tmp_path / "e" / "model.engine").stat().st_size > 1000
    assert set(info.files) == {"model.engine"}
    assert info.versions["tensorrt_rtx"].startswith("1.")


def test_single_batch_is_static_and_default_is_open_ended(folder, tmp_path):
    info = build(folder, tmp_path / "e")
    assert info.details["static"] is True
    assert info.built_for == ("sm80+",)


def test_half_precision_network_is_half(tmp_path):
    import numpy as np

    folder = write_handmade_folder(tmp_path / "half", dtype=np.float16)
    info = build(folder, tmp_path / "e", gpu=("sm89",))
    assert (info.precision_asked, info.precision_found) == ("fp16", "fp16")


@pytest.mark.parametrize(
    ("precision", "gpus"),
    [("fp32", "sm80+"), ("bf16", "sm80+"), ("int8", "sm86+"), ("fp8", "sm89+")],
)
def test_by_default_it_is_for_the_gpus_that_have_the_precision(precision, gpus):
    assert target("trt-rtx")._default_gpus(precision) == gpus


@pytest.mark.slow
def test_unet_builds_with_a_dynamic_profile(unet_folder, tmp_path):
    info = build(unet_folder, tmp_path / "e", batch=(1, 4, 8), one_profile=True, gpu=("sm120",))
    assert info.profiles[0]["sample"].max == (8, 1, 8, 8)
    assert info.build_seconds > 0


@pytest.mark.parametrize("gpu", ["sm90", "sm70", "sm999"])
def test_gpu_it_does_not_build_for_names_those_it_does(folder, tmp_path, gpu):
    with pytest.raises(RequestError, match=f"does not build for {gpu}") as caught:
        build(folder, tmp_path / "e", gpu=(gpu,))
    assert "sm86" in caught.value.hint
    assert not (tmp_path / "e").exists()


def test_gpu_that_is_no_compute_capability(folder, tmp_path):
    with pytest.raises(RequestError, match="'card9' is neither a GPU's compute capability"):
        build(folder, tmp_path / "e", gpu=("card9",))


def test_precision_that_the_gpu_lacks(tmp_path, monkeypatch):
    folder = write_handmade_folder(tmp_path / "f")
    text = (folder / "model.json").read_text().replace('"fp32"', '"bf16"')
    (folder / "model.json").write_text(text)
    with pytest.raises(UnavailableError, match="bf16 from sm80 on, not for sm75"):
        build(folder, tmp_path / "e", gpu=("sm86", "sm75"))


def test_gpus_and_precision_are_checked_without_a_build(monkeypatch):
    """What the build would refuse, before the hours that come before it."""
    monkeypatch.setattr(trt_builder, "parsed", None)
    check_gpus("trt-rtx", ("sm86", "8.9"), "fp16")
    check_gpus("trt-rtx", (), "fp8")
    check_gpus("trt-rtx", ("sm75",), "auto")
    check_gpus("ort-cpu", ("sm75",), "fp32")
    with pytest.raises(RequestError, match="does not build for sm90") as caught:
        check_gpus("trt-rtx", ("sm86", "sm90"), "fp32")
    assert "sm75, sm80, sm86" in caught.value.hint
    with pytest.raises(RequestError, match="'card9' is neither a GPU's compute capability"):
        check_gpus("trt-rtx", ("card9",), "fp32")
    with pytest.raises(UnavailableError, match="fp8 from sm89 on, not for sm86"):
        check_gpus("trt-rtx", ("sm86",), "fp8")


def test_trt_builds_for_the_gpu_at_hand_only(monkeypatch):
    gpu = machine.gpu.parse_gpu("NVIDIA A10G, 8.6, 570.86.15, 23028, 210, 1710")
    monkeypatch.setattr(machine.gpu, "gpus", lambda: (gpu,))
    check_gpus("trt", ("8.6",), "fp16")
    with pytest.raises(RequestError, match=r"the GPU at hand \(sm86\), not sm89"):
        check_gpus("trt", ("sm89",), "fp16")
    with pytest.raises(UnavailableError, match="fp8 from sm89 on, not for sm86"):
        check_gpus("trt", (), "fp8")
    monkeypatch.setattr(machine.gpu, "gpus", lambda: ())
    with pytest.raises(RequestError, match=r"\(no GPU\), not sm86"):
        check_gpus("trt", ("sm86",), "fp16")


def test_unsupported_operator_names_node_and_operator(folder, tmp_path):
    model = onnx.load(folder / "model.onnx")
    model.graph.node[6].CopyFrom(
        helper.make_node("Frobnicate", ["h2"], ["h3"], name="my_node", domain="nobody")
    )
    model.opset_import.append(helper.make_opsetid("nobody", 1))
    (folder / "model.json").write_text((folder / "model.json").read_text().replace("sha256", "x"))
    onnx.save(model, folder / "model.onnx")
    with pytest.raises(InputError, match=r"does not take operator Frobnicate \(node 'my_node'\)"):
        build(folder, tmp_path / "e")


def test_network_that_the_builder_refuses_gives_its_reason(folder, tmp_path):
    """A reshape to a size that cannot be: only the build finds it."""
    model = onnx.load(folder / "model.onnx")
    for tensor in model.graph.initializer:
        if tensor.name == "shape":
            tensor.CopyFrom(helper.make_tensor("shape", TensorProto.INT64, [4], [7, 1, 1, 1]))
    (folder / "model.json").write_text((folder / "model.json").read_text().replace("sha256", "x"))
    onnx.save(model, folder / "model.onnx")
    with pytest.raises(InputError, match=r"trt-rtx (cannot build|refuses)") as caught:
        build(folder, tmp_path / "e", batch=(2,))
    assert "cudaError 35" not in str(caught.value)
    assert "no reason given" not in str(caught.value)


def test_closing_the_build_cancels_it(unet_folder, tmp_path):
    work = target("trt-rtx").build(unet_folder, BuildOptions(batch=(1, 4)), tmp_path / "e")
    for event in work:
        if event.done > 0:
            break
    start = time.perf_counter()
    work.close()
    assert time.perf_counter() - start < 20
    assert list(tmp_path.iterdir()) == []


def test_loading_without_a_gpu_says_why(folder, tmp_path):
    if machine.gpu.gpus():
        pytest.skip("this machine has a GPU")
    build(folder, tmp_path / "e")
    with pytest.raises(UnavailableError, match="no NVIDIA GPU here"):
        target("trt-rtx").load(tmp_path / "e")


def test_engine_for_another_gpu_is_refused(folder, tmp_path, monkeypatch):
    info = build(folder, tmp_path / "e", gpu=("sm89",))
    gpu = machine.gpu.parse_gpu("NVIDIA A10G, 8.6, 570.86.15, 23028, 210, 1710")
    monkeypatch.setattr(machine.gpu, "gpus", lambda: (gpu,))
    with pytest.raises(NotComparable, match="built for sm89; this machine has sm86"):
        check_built_for(tmp_path / "e", info)
    with pytest.raises(NotComparable):
        target("trt-rtx").load(tmp_path / "e")


def test_cut_engine_is_refused(folder, tmp_path):
    build(folder, tmp_path / "e")
    path = tmp_path / "e" / "model.engine"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"model\.engine was cut or altered"):
        target("trt-rtx").load(tmp_path / "e")
