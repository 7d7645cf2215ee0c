"""One file for several sizes: what torch computes at each, on every runtime that is here."""

import json

import numpy as np
import onnx
import pytest
import torch
from support.family_cases import CASES as TINY
from support.family_cases import random_model
from support.onnx_folder import tiny_unet

from diffc.models.families import family
from diffc.models.families.examples import example_inputs
from diffc.models.onnx_export import export_denoiser
from diffc.models.resolutions import multiple_of
from diffc_export.events import drain
from diffc_export.onnx.layer_macs import layer_macs
from diffc_export.targets import target
from diffc_export.targets.base import BuildOptions
from diffc_export.targets.onnx_file import read_onnx

pytestmark = pytest.mark.slow


def unet():
    return tiny_unet(channels=(16, 32), size=16), "UNet2DModel"


def conditional():
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    cross, plain = "CrossAttn{}Block2D", "{}Block2D"
    model = UNet2DConditionModel(
        sample_size=16, block_out_channels=(16, 32, 32), layers_per_block=1, norm_num_groups=4,
        down_block_types=[name.format("Down") for name in (cross, cross, plain)],
        up_block_types=[name.format("Up") for name in (plain, cross, cross)],
        cross_attention_dim=8, attention_head_dim=4,
    )  # fmt: skip
    return model.eval(), "UNet2DConditionModel"


def decoder():
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    model = AutoencoderKL(
        block_out_channels=(8, 16), norm_num_groups=4, sample_size=32,
        down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
    )  # fmt: skip
    return model.eval(), "AutoencoderKL"


# the last of each has a level of one pixel (a U-Net), or an odd side (the decoder)
CASES = {
    "unet": (unet, ((16, 16), (24, 24), (2, 2))),
    "conditional": (conditional, ((16, 16), (8, 8), (4, 4))),
    "decoder": (decoder, ((16, 16), (24, 24), (7, 7))),
}


@pytest.fixture(scope="module", params=CASES)
def exported(request, tmp_path_factory):
    """(model, its family, its specs, sizes, the ONNX folder)"""
    make, sizes = CASES[request.param]
    model, name = make()
    found = family(name)
    specs = found.specs(dict(model.config), 16)
    folder = tmp_path_factory.mktemp(request.param)
    multiple = multiple_of(name, dict(model.config))
    export_denoiser(model, found, specs, folder, sizes=sizes, multiple=multiple)
    return model, found, specs, sizes, folder


def test_the_sides_are_dynamic_and_named(exported):
    *_, sizes, folder = exported
    described = json.loads((folder / "model.json").read_text())
    sample = described["inputs"][0]
    assert sample["shape"][-2:] == [16, 16]
    assert sample["sizes"] == [list(size) for size in sizes]
    assert not any("sizes" in item for item in described["inputs"][1:])
    graph = onnx.load(folder / "model.onnx").graph
    dims = [dim.dim_param or dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim]
    assert dims == ["batch", sample["shape"][0], "height", "width"]
    assert read_onnx(folder).sizes == sizes


@pytest.mark.parametrize("name", ["ort-cpu", "openvino"])
def test_engines_compute_what_torch_does_at_each_size(name, exported, tmp_path):
    compare(name, exported, tmp_path)


# positions of the middle one are neither the config's nor those that were traced
TRANSFORMERS = {
    "dit": ((8, 8), (6, 6), (12, 12)),
    "pixart": ((8, 8), (6, 10), (12, 8)),
    "sd35": ((8, 8), (6, 10), (12, 8)),
    "sana15": ((4, 4), (3, 5), (6, 4)),
    "wan": ((4, 4), (2, 6), (8, 4)),
    "flux": ((8, 8), (6, 10), (12, 8)),
}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_compute_their_positions_in_the_graph(name, tmp_path):
    sizes, (class_name, config, _) = TRANSFORMERS[name], TINY[name]
    model, found = random_model(class_name, {**config, "num_layers": 1}), family(class_name)
    specs = found.specs(model.config, sizes[0])
    multiple = multiple_of(class_name, dict(model.config))
    folder = tmp_path / "onnx"
    export_denoiser(model, found, specs, folder, sizes=sizes, multiple=multiple)
    assert read_onnx(folder).sizes == sizes
    for runtime in ("ort-cpu", "openvino"):
        if target(runtime).status().runnable:
            compare(runtime, (model, found, specs, sizes, folder), tmp_path / runtime)


def compare(name, exported, tmp_path):
    """An engine of each batch and size, against the torch model itself."""
    model, found, specs, sizes, folder = exported
    if not target(name).status().runnable:
        pytest.skip(f"no {name} here")
    drain(target(name).build(folder, BuildOptions(batch=(1, 3), threads=1), tmp_path / "e"))
    runner = target(name).load(tmp_path / "e")
    for size in sizes:
        for batch in (1, 3):
            inputs = example_inputs(specs, model.config, batch)
            inputs["sample"] = torch.randn(batch, *specs[0].shape[:-2], *size)
            with torch.no_grad():
                expected = found.call(model, inputs).numpy()
            got = runner({key: value.numpy() for key, value in inputs.items()})["out_sample"]
            np.testing.assert_allclose(got, expected, atol=2e-5)
    runner.close()


def test_trt_rtx_takes_the_file(exported, tmp_path):
    folder, sizes = exported[4], exported[3]
    if not target("trt-rtx").status().buildable:
        pytest.skip("no trt-rtx here")
    options = BuildOptions(batch=(1, 2), gpu=("sm89",))
    info = drain(target("trt-rtx").build(folder, options, tmp_path / "e"))
    spans = [p["sample"] for p in info.profiles]
    assert [(s.opt[0], s.opt[-2:]) for s in spans] == [(b, size) for size in sizes for b in (1, 2)]


def test_layers_work_is_that_of_a_file_of_the_working_size(exported, tmp_path):
    model, found, specs, _, folder = exported
    export_denoiser(model, found, specs, tmp_path)
    fixed = sorted(layer_macs(onnx.load(tmp_path / "model.onnx")).values())
    feed = {key: x.numpy() for key, x in example_inputs(specs, model.config, 1).items()}
    assert sorted(layer_macs(onnx.load(folder / "model.onnx"), feed).values()) == fixed
