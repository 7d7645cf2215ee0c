"""Distances on the dense model's own features in a run: of what, to what, under which prompts."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image
from support.runs import compile_quickly
from support.tiny_text import save_sd

from diffc.data.clean import CleanSet
from diffc.measure.quality.features import statistics
from diffc.measure.quality.own_features import GivenRows, middle_features
from diffc.measure.quality.own_kernel import METRIC as KERNEL
from diffc.models.source import find_source
from diffc.report.markdown import to_markdown
from diffc.stage_inputs import RunShape
from diffc_export.events import drain

NAMES = ("own-frechet", "own-kernel")


@pytest.mark.slow
def test_a_run_compares_both_sides_with_its_clean_samples(tiny_model, tmp_path) -> None:
    out = tmp_path / "out"
    report = compile_quickly(tiny_model, out, quality={"images": 8})
    clean = CleanSet.load(out / ".diffc" / "clean.safetensors")
    source = find_source(str(tiny_model))
    dense = RunShape(None, None).open(source)
    reference = drain(middle_features(dense, clean.sample, GivenRows({}, {})))
    for name in NAMES:
        figure = report.quality[name]
        assert figure["features"] == "the dense model (mid_block)"
        assert figure["features_sha256"] == source.digest
        assert figure["reference"]["n"] == 8 and figure["reference"]["of"] == clean.origin
        assert figure["reference"]["sha256"] == statistics(reference, "").digest
        assert figure["further"]["value"] == pytest.approx(figure["compressed"] - figure["dense"])
        assert figure["n"] == 8
    page = to_markdown(report)
    assert "own Frechet distance" in page and "own kernel distance" in page
    assert f"own distances are to {clean.origin}" in page and (
        " nearer |" in page or " further |" in page
    )


@pytest.mark.slow
def test_few_images_have_the_kernel_distance_and_the_reason_for_the_other(
    tiny_model, tmp_path
) -> None:
    report = compile_quickly(tiny_model, tmp_path / "out")
    assert report.quality["own-kernel"]["n"] == 4
    assert report.quality["own-frechet"] is None
    assert "it needs 8 images, and there are 4" in report.quality["absent"]["own-frechet"]


def write_features(path) -> None:
    """A network of features: the mean of each quarter of a grey image of 16x16."""
    node = helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[8, 8], strides=[8, 8])
    shapes = [["n", 1, 16, 16], ["n", 1, 2, 2]]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in zip("xy", shapes, strict=True)
    ]
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)


@pytest.mark.slow
def test_reference_images_take_the_place_of_the_clean_samples(tiny_model, tmp_path) -> None:
    (tmp_path / "images").mkdir()
    random = np.random.default_rng(0)
    for i in range(9):
        pixels = random.integers(0, 256, (16, 16), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
    write_features(tmp_path / "f.onnx")
    given = {"reference": str(tmp_path / "images"), "features": str(tmp_path / "f.onnx")}
    report = compile_quickly(tiny_model, tmp_path / "out", quality=given)
    own, theirs = report.quality["own-kernel"], report.quality["kernel"]
    assert own["reference"]["n"] == theirs["reference"]["n"] == 9
    assert own["reference"]["of"] == "reference images" and "of" not in theirs["reference"]
    assert own["features"] != theirs["features"] == "f.onnx"


@pytest.mark.slow
def test_latents_with_prompts_are_compared_under_the_null_prompt(tmp_path) -> None:
    (tmp_path / "prompts.txt").write_text("a red cat\na blue house\n")
    out = tmp_path / "out"
    report = compile_quickly(
        save_sd(tmp_path / "sd"), out, data={"prompts": str(tmp_path / "prompts.txt")}
    )
    figure = report.quality["own-kernel"]
    clean = CleanSet.load(out / ".diffc" / "clean.safetensors")
    source = find_source(str(tmp_path / "sd"))
    dense = RunShape(None, None).open(source)
    rows = {name: value.expand(len(clean), *value.shape) for name, value in clean.null.items()}
    assert set(rows) == {"encoder_hidden_states"}
    reference = drain(middle_features(dense, clean.sample, GivenRows(rows, {})))
    assert figure["reference"]["sha256"] == statistics(reference, "").digest
    assert json.loads((out / "report.json").read_text())["quality"]["own-kernel"] == figure
    assert torch.isfinite(torch.tensor([figure["dense"], figure["compressed"]])).all()
    assert KERNEL.sentence(figure).endswith(f"± {figure['se']['compressed']:.2g}")
