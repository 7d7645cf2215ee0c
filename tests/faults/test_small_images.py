"""Figures that samples cannot have are left out with a reason; the run goes on."""

from __future__ import annotations

import json

import pytest
import torch
from support import reports
from support.pipelines import save_ddpm
from support.runs import compile_quickly

from diffc.data.sampling import SamplerInfo
from diffc.measure.picture_files import grid, write_pair
from diffc.measure.pictures import picture_shape
from diffc.measure.quality import own_metrics
from diffc.measure.quality.measuring import measure_quality
from diffc.measure.samples import SamplePair
from diffc.measure.statistics import estimate
from diffc.models.source import find_source
from diffc.recipe import resolve
from diffc.report.markdown import to_markdown
from diffc.report.model import Report
from diffc.report.units import interval, number
from diffc.stages.preflight import preflight
from diffc_export.events import drain
from diffc_runtime.loop import Loop

INFO = SamplerInfo(Loop("ddim", 3), "leading")


def samples(dense, compressed):
    return SamplePair(dense, compressed, INFO, INFO, 0)


def quality(pair):
    """The figures that every run has."""
    return drain(measure_quality(pair, [one for one in own_metrics() if one.always]))


def notes_of(model, out, **sections_):
    flags = {"prune": {"ratio": 0.3}, **sections_}
    return preflight(find_source(model), resolve(family="UNet2DModel", flags=flags), out, "bench")


@pytest.mark.slow
def test_images_below_the_window_have_no_ssim_and_the_run_goes_on(tmp_path):
    report = compile_quickly(save_ddpm(tmp_path / "m", sample_size=8), tmp_path / "o", "distill")
    why = "SSIM is left out: it needs pictures of at least 11x11, and these are 8x8"
    assert why in report.notes
    assert report.quality["ssim"] is None and report.quality["psnr"]["n"] == 4
    assert report.quality["absent"]["ssim"] == why
    assert (tmp_path / "o" / "samples" / "grid.png").exists()
    part = reports.find_part(report, "Compressed against dense samples")
    assert ("SSIM", "", "-", "") in reports.rows_of(part) and why in reports.notes_of(part)
    assert Report.read(tmp_path / "o").quality == report.quality


@pytest.mark.parametrize(
    ("shape", "names"),
    [
        ((3, 32, 32), set()),
        ((1, 10, 64), {"ssim", "lpips"}),
        ((3, 30, 31), {"lpips"}),
        ((4, 64, 64), {"lpips", "frechet", "kernel"}),
        ((2, 8, 8), {"ssim", "lpips", "frechet", "kernel"}),
    ],
)
def test_what_a_shape_cannot_have(shape, names):
    assert {one.name for one in own_metrics() if one.why_impossible(shape)} == names


@pytest.mark.parametrize(
    ("options", "count"),
    [({}, 1), ({"lpips": True}, 2)],
)
def test_notes_are_of_the_figures_that_are_wanted(tmp_path, options, count):
    model = save_ddpm(tmp_path / "m", sample_size=8)
    notes = notes_of(model, tmp_path / "o", quality=options)
    assert len([note for note in notes if "left out" in note]) == count


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_any_number_of_channels_can_be_shown(tmp_path, channels):
    pair = samples(torch.rand(2, channels, 16, 16), torch.rand(2, channels, 16, 16))
    grid(pair, tmp_path / "grid.png")
    write_pair(pair, tmp_path)
    assert quality(pair)["ssim"]["mean"] < 1


def test_samples_without_sides_are_no_pictures(tmp_path):
    source = find_source(save_ddpm(tmp_path / "m"))
    assert picture_shape(source, (4, 21, 8, 8)) is None
    assert picture_shape(source, (64, 16)) is None
    assert picture_shape(source, (1, 16, 16)) == (1, 16, 16)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_samples_that_are_no_numbers_have_no_figures_and_say_why(tmp_path, value):
    dense, compressed = torch.rand(3, 1, 16, 16), torch.rand(3, 1, 16, 16)
    compressed[1:, 0, 0, 0] = value
    pair = samples(dense, compressed)
    figures = quality(pair)
    why = "no figures: 2 of 3 samples of the compressed model hold NaN or infinity"
    assert figures["ssim"] is None and figures["psnr"] is None
    assert figures["absent"] == {one.name: why for one in own_metrics() if one.always}
    grid(pair, tmp_path / "grid.png")


def test_identical_samples_have_no_psnr_and_say_why():
    images = torch.rand(2, 1, 16, 16)
    figures = quality(samples(images, images))
    assert figures["psnr"] is None and "identical" in figures["absent"]["psnr"]
    assert figures["ssim"]["mean"] == pytest.approx(1)


def test_one_image_has_no_interval():
    assert estimate([0.5]).ci95 is None
    assert estimate([0.5]).as_dict() == {"mean": 0.5, "ci95": None}
    assert estimate([0.5, 0.6]).as_dict()["ci95"] is not None


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    return compile_quickly(
        save_ddpm(folder / "m"), folder / "o", "distill", quality={"images": 1}
    ), folder / "o"


def test_one_image_is_reported_without_an_interval(report):
    part = reports.find_part(report[0], "Compressed against dense samples")
    row = next(row for row in reports.rows_of(part) if row[0] == "SSIM")
    assert row[3] == "one image"
    assert reports.notes_of(part)[0].startswith("1 image from the same noise")
    assert json.loads((report[1] / "report.json").read_text())["quality"]["ssim"]["ci95"] is None


@pytest.mark.parametrize(
    "figure",
    [
        {"mean": None, "ci95": [None, None]},
        {"mean": float("nan"), "ci95": [float("nan"), float("nan")]},
        {"mean": 0.5, "ci95": [None, None]},
        {"mean": 0.5, "ci95": [float("-inf"), float("inf")]},
    ],
)
def test_a_report_with_figures_that_are_no_numbers_is_shown(report, figure, tmp_path):
    from diffc.report.html import write_html

    ssim = {**report[0].quality["ssim"], **figure}
    changed = report[0].model_copy(update={"quality": {**report[0].quality, "ssim": ssim}})
    assert "SSIM" in to_markdown(changed) and "nan" not in to_markdown(changed).lower()
    write_html(changed, tmp_path)


def test_words_for_figures():
    assert (number(None, 2), number(float("nan"), 2), number(0.5, 3)) == ("-", "-", "0.500")
    assert (interval(None), interval([None, 1.0]), interval([0.0, 1.0])) == (
        "-",
        "-",
        "[0.00, 1.00]",
    )
