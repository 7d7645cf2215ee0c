"""Engines of several resolutions: each size computes what the model does, others are refused."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.onnx_folder import write_handmade_folder

from diffc.errors import InputError
from diffc.measure.inputs import example_inputs
from diffc_export.events import drain
from diffc_export.targets import target
from diffc_export.targets.base import BuildOptions
from diffc_export.targets.engine import read_info

SIZES = ((8, 8), (16, 16), (8, 24))
RUN_HERE = ("ort-cpu", "openvino")


@pytest.fixture(scope="module")
def sized(tmp_path_factory):
    return write_handmade_folder(tmp_path_factory.mktemp("sized"), others=SIZES[1:])


def build(name, folder, out, **options):
    if not target(name).status().buildable:
        pytest.skip(f"no {name} here")
    return drain(target(name).build(folder, BuildOptions(threads=1, **options), out))


def expected(folder, size):
    """Inputs and the output that numpy computed at a size, four rows each."""
    tensors = load_file(folder / "reference.safetensors")
    prefix = "" if size == SIZES[0] else f"at.{size[0]}x{size[1]}."
    inputs = {name: tensors[f"{prefix}input.{name}"] for name in ("sample", "timestep")}
    return inputs, tensors[f"{prefix}output"]


@pytest.mark.parametrize("one_profile", [False, True])
@pytest.mark.parametrize("name", RUN_HERE)
def test_every_size_computes_what_numpy_does(name, one_profile, sized, tmp_path):
    build(name, sized, tmp_path / "e", batch=(1, 4), one_profile=one_profile)
    runner = target(name).load(tmp_path / "e")
    for size in (*SIZES, *SIZES):  # again: what is kept by shape is not another shape's
        inputs, output = expected(sized, size)
        for rows in (1, 4):
            part = {key: array[:rows] for key, array in inputs.items()}
            bound = runner.bind(part)
            bound.run()
            for found in (runner(part), bound.outputs()):
                np.testing.assert_allclose(found["out_sample"], output[:rows], atol=1e-4)
    runner.close()


@pytest.mark.parametrize("name", RUN_HERE)
def test_a_size_between_is_served_by_one_profile_alone(name, sized, tmp_path):
    for one_profile in (False, True):
        out = tmp_path / str(one_profile)
        build(name, sized, out, batch=(1,), one_profile=one_profile)
        runner = target(name).load(out)
        inputs = example_inputs(runner.info, 1, size=(8, 16))
        if one_profile:
            assert runner(inputs)["out_sample"].shape == (1, 1, 8, 16)
        else:
            with pytest.raises(InputError, match="not built for batch 1 at 8x16"):
                runner(inputs)
        runner.close()


@pytest.mark.parametrize("name", [*RUN_HERE, "trt-rtx", "fake"])
def test_the_engine_says_what_it_serves(name, sized, tmp_path):
    built = build(name, sized, tmp_path / "e", batch=(1, 4))
    info = read_info(tmp_path / "e")
    assert info == built
    assert info.sizes == SIZES and info.batches == (1, 4)
    assert [p["sample"].opt for p in info.profiles] == [
        (rows, 1, *size) for size in SIZES for rows in (1, 4)
    ]
    if name == "trt-rtx":
        assert info.details["static"] is False


def test_trt_rtx_builds_one_profile_over_all_sizes(sized, tmp_path):
    info = build("trt-rtx", sized, tmp_path / "e", batch=(1, 4), one_profile=True, gpu=("sm89",))
    (profile,) = info.profiles
    assert (profile["sample"].min, profile["sample"].max) == ((1, 1, 8, 8), (4, 1, 16, 24))
    assert info.engine_bytes > 1000


def test_openvino_opens_an_engine_of_one_profile_with_its_bounds(sized, tmp_path):
    openvino = pytest.importorskip("openvino")
    build("openvino", sized, tmp_path / "e", batch=(1, 4), one_profile=True)
    model = openvino.Core().read_model(tmp_path / "e" / "model.xml")
    shape = next(i for i in model.inputs if i.get_any_name() == "sample").get_partial_shape()
    spans = [(dim.get_min_length(), dim.get_max_length()) for dim in shape]
    assert spans == [(1, 4), (1, 1), (8, 16), (8, 24)]


def test_an_engine_from_before_sizes_is_still_read(sized, tmp_path):
    build("fake", sized, tmp_path / "e")
    content = json.loads((tmp_path / "e" / "engine.json").read_text())
    for spec in (*content["inputs"], *content["outputs"]):
        del spec["sizes"]
    (tmp_path / "e" / "engine.json").write_text(json.dumps(content))
    assert read_info(tmp_path / "e").sizes == ()
