"""torch as a target: the very model, through the same seam as the engines."""

import numpy as np
import pytest
from onnx_folder import tiny_unet
from safetensors.numpy import load_file

from diffc.errors import RequestError
from diffc.events import drain
from diffc.targets import target
from diffc.targets.base import BuildOptions
from diffc.targets.torch_target import TorchRunner


def test_it_computes_the_reference(unet_folder, tmp_path):
    build = BuildOptions(batch=(4,), model="somewhere")
    info = drain(target("torch").build(unet_folder, build, tmp_path / "e"))
    runner = TorchRunner(tiny_unet(), info, threads=1)
    reference = load_file(unet_folder / "reference.safetensors")
    inputs = {name: reference[f"input.{name}"] for name in ("sample", "timestep")}
    np.testing.assert_allclose(runner(inputs)["out_sample"], reference["output"], atol=1e-6)
    assert runner.bind(inputs).run() > 0


def test_half_precision_is_half(unet_folder, tmp_path):
    build = BuildOptions(batch=(4,), model="somewhere", precision="bf16")
    info = drain(target("torch").build(unet_folder, build, tmp_path / "e"))
    runner = TorchRunner(tiny_unet(), info, threads=1)
    reference = load_file(unet_folder / "reference.safetensors")
    inputs = {name: reference[f"input.{name}"] for name in ("sample", "timestep")}
    error = np.linalg.norm(runner(inputs)["out_sample"] - reference["output"])
    assert 1e-4 < error / np.linalg.norm(reference["output"]) < 5e-2


def test_model_is_found_beside_the_compressed_onnx_folder(folder, tmp_path):
    out = tmp_path / "OUT"
    (out / "onnx").mkdir(parents=True)
    (out / "model").mkdir()
    moved = folder.rename(out / "onnx" / "compressed")
    info = drain(target("torch").build(moved, BuildOptions(), tmp_path / "e"))
    assert info.details == {"model": str(out / "model"), "variant": "eager"}


def test_model_that_cannot_be_told_must_be_given(folder, tmp_path):
    with pytest.raises(RequestError, match="cannot tell the torch model"):
        drain(target("torch").build(folder, BuildOptions(), tmp_path / "e"))


def test_unknown_variant_names_the_known(folder, tmp_path):
    with pytest.raises(RequestError, match="unknown variant of torch 'compild'") as caught:
        drain(
            target("torch").build(
                folder, BuildOptions(model="x", variant="compild"), tmp_path / "e"
            )
        )
    assert "compiled" in caught.value.hint
