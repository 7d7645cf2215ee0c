"""diffc eval's further figures: what they are made of, and what is said when one cannot be."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from support.pipelines import save_ddpm
from support.quick import QUICK
from support.reports import rows_of
from torch import nn

import diffc
from diffc.errors import InputError, UnavailableError
from diffc.measure.quality.base import hub_folder
from diffc.measure.quality.features import onnx_extractor, statistics
from diffc.measure.quality.frechet import frechet_distance, frechet_error
from diffc.measure.quality.kernel import kernel_distance
from diffc.report.sections import parts
from diffc_runtime.files import file_digest

pytestmark = pytest.mark.usefixtures("compiled_cache")  # only samples and figures are tried here


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    random = np.random.default_rng(0)
    for i in range(6):
        Image.fromarray(random.integers(0, 255, (16, 16), np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def extractor(tmp_path_factory):
    """Four means of each image, as an ONNX file."""
    path = tmp_path_factory.mktemp("onnx") / "means.onnx"
    model = nn.Sequential(nn.AvgPool2d(8), nn.Flatten()).eval()
    batch = torch.export.Dim("batch")
    torch.onnx.export(
        model, (torch.zeros(2, 1, 16, 16),), path, dynamo=True, dynamic_shapes=({0: batch},)
    )
    return path


def evaluated(model, out, **quality):
    options = {**QUICK, "quality": {**QUICK["quality"], **quality}}
    return diffc.compile(model, ratio=0.4, out=out, stop="distill", options=options)


def test_distances_to_reference_images(tiny_model, tmp_path, images, extractor):
    report = evaluated(tiny_model, tmp_path / "out", reference=str(images), features=str(extractor))
    rows = {side: means(Image.open(tmp_path / "out" / "samples" / f"{side}.png"))
            for side in ("dense", "compressed")}  # fmt: skip
    real = np.concatenate([means(Image.open(path), gap=0) for path in sorted(images.glob("*.png"))])
    for side, found in rows.items():
        figures = report.quality
        expected = frechet_distance(statistics(found, "x"), statistics(real, "x"))
        assert figures["frechet"][side] == pytest.approx(expected, rel=0.05)
        assert figures["kernel"][side] == pytest.approx(kernel_distance(found, real), rel=0.05)
        assert figures["frechet"]["se"][side] == pytest.approx(
            frechet_error(found, statistics(real, "x")), rel=0.05
        )
        assert figures["kernel"]["se"][side] > 0
    assert report.quality["frechet"]["features"] == "means.onnx"
    about = report.quality["frechet"]
    pixels = np.stack([np.asarray(Image.open(path), np.float32) for path in images.glob("*.png")])
    rows = onnx_extractor(extractor)(torch.from_numpy(pixels / 127.5 - 1)[:, None])
    assert about["reference"] == {"n": 6, "sha256": statistics(rows, "x").digest}
    assert about["features_sha256"] == file_digest(extractor)
    assert {"sampler", "steps", "seeds", "n"} <= set(report.quality["kernel"])
    shown = [row for part in parts(report) for row in rows_of(part)]
    assert any(row[0] == "Frechet distance on means.onnx" for row in shown)


def means(picture, gap: int = 4) -> np.ndarray:
    """(N, 4): the four quarters' means of each 16x16 image in a sheet, in [-1, 1]."""
    pixels = np.asarray(picture.convert("L"), np.float64) / 127.5 - 1
    side = pixels.shape[0]  # one row of enlarged squares
    scale = side // 16
    found = []
    for left in range(0, pixels.shape[1], side + gap):
        image = pixels[:, left : left + side][::scale, ::scale][:16, :16]
        found.append([image[a : a + 8, b : b + 8].mean() for a in (0, 8) for b in (0, 8)])
    return np.array(found)


def test_missing_weights_are_told_before_the_work(tiny_model, tmp_path, images, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    large = save_ddpm(tmp_path / "large", sample_size=32)  # LPIPS is left out of smaller ones
    for model, quality, needs in (
        (large, {"lpips": True}, "AlexNet"),
        (tiny_model, {"reference": str(images)}, "InceptionV3"),
    ):
        with pytest.raises(UnavailableError, match=f"{needs}'s weights") as caught:
            evaluated(model, tmp_path / "out", **quality)
        assert not (tmp_path / "out").exists()
        assert str(tmp_path / "hub") in str(caught.value) and caught.value.hint


def test_missing_weights_are_refused_before_models_are_built(images, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr("diffc.stages.preflight.model_checks", lambda *_: 1 / 0)
    with pytest.raises(UnavailableError, match="InceptionV3's weights"):
        diffc.compile(
            save_ddpm(tmp_path / "m", sample_size=32),
            out=tmp_path / "out",
            options={"quality": {"reference": str(images)}},
        )


@pytest.mark.parametrize(
    "named", [{}, {"XDG_CACHE_HOME": "~/xdg"}, {"TORCH_HOME": "$HOME/torch"}, {"TORCH_HOME": "/t"}]
)
def test_torchs_hub_folder_is_known_without_torch(monkeypatch, named):
    for name in ("XDG_CACHE_HOME", "TORCH_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in named.items():
        monkeypatch.setenv(name, value)
    expected = torch.hub.get_dir()
    monkeypatch.delitem(sys.modules, "torch")
    assert str(hub_folder()) == expected


def test_a_reference_that_is_not_there(tiny_model, tmp_path):
    with pytest.raises(InputError, match="--reference: there is nothing at"):
        evaluated(tiny_model, tmp_path / "out", reference=str(tmp_path / "nothing"))


def test_a_reference_that_does_not_fit_is_told_before_samples_are_made(
    tiny_model, tmp_path, images, monkeypatch
):
    """An extractor for another size: nothing is sampled first."""
    path = tmp_path / "large.onnx"
    torch.onnx.export(
        nn.Sequential(nn.AvgPool2d(56), nn.Flatten()).eval(), (torch.zeros(1, 3, 224, 224),), path,
        dynamo=True,
    )  # fmt: skip
    monkeypatch.setattr("diffc.measure.samples.sample_pair", lambda *_args, **_more: 1 / 0)
    with pytest.raises(InputError, match=r"large\.onnx takes .*224"):
        evaluated(tiny_model, tmp_path / "out", reference=str(images), features=str(path))
