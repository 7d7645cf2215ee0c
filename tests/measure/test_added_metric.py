"""Metrics of other distributions: the example of docs/extending.md, and broken ones."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.distributions import install
from support.runs import compile_quickly, refusal

from diffc.data.sampling import SamplerInfo
from diffc.errors import RequestError, UnavailableError
from diffc.gate.limits import limits_of
from diffc.gate.quality import quality_figures
from diffc.gate.subject import CheckedSide
from diffc.measure.quality import broken_metrics, metric, metric_names, own_metrics
from diffc.measure.quality.measuring import checked_metrics, measure_quality, metric_packages
from diffc.measure.samples import SamplePair
from diffc.recipe import resolve
from diffc.report.markdown import to_markdown
from diffc.report.model import ModelFigures, Report
from diffc_export.events import drain
from diffc_runtime.loop import Loop

INFO = SamplerInfo(Loop("ddim", 3), "leading")
PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
SECTION = PAGE.read_text().partition("## A metric")[2].partition("\n## ")[0]
EXAMPLE = re.search(r"```python\n(.*?)```", SECTION, re.S)[1]
POINTS = re.search(r"```toml\n(.*?)```", SECTION, re.S)[1]
POINTS = POINTS.replace('project.entry-points."diffc.metrics"', "diffc.metrics").replace('"', "")
MAE = {"quality": {"metrics": ["mae"]}}


@pytest.fixture
def add(monkeypatch, tmp_path):
    """Installs a distribution that brings a metric: add(name, {module: source}, entry points)."""

    def write(name, modules, points=POINTS):
        place = tmp_path / f"site-{len(list(tmp_path.glob('site-*')))}"
        install(monkeypatch, place, name, modules, points)

    return write


def options(**quality):
    return resolve(family="", flags={"quality": quality}).quality


def pair() -> SamplePair:
    generator = torch.Generator().manual_seed(0)
    dense, compressed = (torch.rand(4, 1, 16, 16, generator=generator) for _ in range(2))
    return SamplePair(dense, compressed, INFO, INFO, 0)


def subject(path, quality) -> CheckedSide:
    return CheckedSide(Path(path), "output", (), "tiny", quality=quality)


@pytest.mark.slow
def test_the_example_goes_from_eval_to_every_rendering(add, tiny_model, tmp_path):
    add("mae-metric", {"mae_metric": EXAMPLE})
    out = tmp_path / "out"
    report = compile_quickly(tiny_model, out, "distill", **MAE)
    mean = report.quality["mae"]["mean"]
    assert 0 < mean < 2 and report.quality["mae"]["n"] == report.quality["ssim"]["n"]
    written = json.loads((out / "report.json").read_text())["quality"]["mae"]
    assert written["mean"] == mean and written["sampler"] == "ddim"
    for page in ("report.md", "report.html"):
        text = (out / page).read_text()
        assert "absolute error" in text and f"{mean:.4f}" in text, page
    done = subprocess.run(
        [sys.executable, "-m", "diffc", "report", str(out)], capture_output=True, text=True
    )
    assert (
        "absolute error" in done.stderr + done.stdout and f"{mean:.4f}" in done.stderr + done.stdout
    )


def test_the_example_is_measured_only_where_it_is_named(add):
    add("mae-metric", {"mae_metric": EXAMPLE})
    assert metric_names() == [*(sorted(one.name for one in own_metrics())), "mae"]
    shape = (1, 16, 16)
    assert "mae" not in [one.name for one in checked_metrics(shape, options())]
    wanted = checked_metrics(shape, options(metrics="mae"))
    assert [one.name for one in wanted] == ["ssim", "psnr", "own-frechet", "own-kernel", "mae"]
    assert metric_packages(options(metrics="mae")) == ["torchmetrics", "mae-metric"]
    assert metric_packages(options()) == ["torchmetrics"]
    samples = pair()
    figure = drain(measure_quality(samples, wanted))["mae"]
    expected = (samples.dense - samples.compressed).abs().mean().item()
    assert figure["mean"] == pytest.approx(expected) and figure["steps"] == 3


def test_the_gate_judges_the_example(add, tmp_path):
    add("mae-metric", {"mae_metric": EXAMPLE})
    figure = {"mean": 0.25, "ci95": [0.2, 0.3], "n": 4}
    ours = subject("now", {"mae": figure})
    before = subject("before", {"mae": {**figure, "mean": 0.2, "n": 8}})

    def limits(values):
        return limits_of(resolve(family="", flags={"check": {"limits": values}}).check)

    def judged(limit):
        (row,) = quality_figures(ours, before, limits({"mae": limit}))
        return row

    assert judged(0.3).verdict == "pass" and judged(0.2).verdict == "regressed"
    row = judged(0.3)
    assert (row.name, row.candidate, row.baseline, row.limit) == (
        "absolute error",
        0.25,
        0.2,
        "<= 0.3",
    )
    assert row.note == "not of the same samples: n 8 before, 4 now"
    assert quality_figures(ours, before, limits({})) == []
    (missing,) = quality_figures(subject("now", None), before, limits({"mae": 0.3}))
    assert missing.verdict == "inconclusive"
    with pytest.raises(RequestError, match="--limit mae=3 is not between 0 and 2"):
        judged(3)


BROKEN = {
    "raises at import": ("raise OSError('libtoy.so is missing')", "OSError: libtoy.so is missing"),
    "is no Python": ("def (", "SyntaxError"),
    "has no METRIC": ("", "it sets no METRIC"),
    "is something else": ("METRIC = object()", "is not an instance of"),
    "misses a fact": (EXAMPLE.replace('    label = "absolute error"', "    #"), "it sets no label"),
    "has an impossible fact": (EXAMPLE.replace('"lower"  #', '"nearer"  #'), "better is 'nearer'"),
    "misses a method": (EXAMPLE.replace("def values", "def value_s"), "abstract method"),
    "has another name": (EXAMPLE.replace('name = "mae"', 'name = "mse"'), "it calls itself 'mse'"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_metric_is_named_and_refused_in_one_line(add, case):
    source, words = BROKEN[case]
    add("toys", {"mae_metric": source})
    with pytest.raises(UnavailableError) as caught:
        metric("mae")
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert "metric 'mae' of mae_metric (toys 1.0)" in str(caught.value)
    assert list(broken_metrics()) == ["mae"]
    assert "ssim" in [one.name for one in checked_metrics((1, 16, 16), options())]


def test_a_run_refuses_a_metric_that_it_cannot_have(add, tiny_model, tmp_path):
    add("toys", {"mae_metric": "raise OSError('libtoy.so is missing')"})
    assert "libtoy.so" in str(refusal(tiny_model, tmp_path / "out", **MAE))
    error = refusal(tiny_model, tmp_path / "out", quality={"metrics": ["ssmi"]})
    assert str(error) == "unknown metric 'ssmi'" and "ssim" in error.hint
    error = refusal(tiny_model, tmp_path / "out", quality={"metrics": ["kernel"]})
    assert "none are given" in str(error) and error.hint == "--reference IMAGES"
    assert not (tmp_path / "out").exists()


def test_two_metrics_of_one_name_are_both_named(add):
    add("toys", {"mae_metric": EXAMPLE})
    add("games", {"other": EXAMPLE}, "[diffc.metrics]\nmae = other\n")
    with pytest.raises(RequestError, match=r"mae_metric \(toys 1.0\) and other|other .* and mae_"):
        metric("mae")


def test_a_report_shows_the_figure_of_a_metric_that_is_not_installed():
    figure = {"mean": 0.25, "ci95": [0.2, 0.3], **pair().origin()}
    model = ModelFigures(name="tiny", class_name="UNet2DModel", params=1000, macs=1e6)
    report = Report(diffc="0", created="2026-01-01", model=model, quality={"mae": figure})
    assert re.search(r"mae \|.*0\.250 \|.*0\.200, 0\.300", to_markdown(report))


def test_metrics_are_listed_and_written_without_torch():
    code = (
        "import sys; from diffc.measure.quality import own_metrics;"
        "print([one.name for one in own_metrics()], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    names = ["ssim", "psnr", "lpips", "own-frechet", "own-kernel", "frechet", "kernel"]
    assert done.stdout.strip() == f"{names} False"
