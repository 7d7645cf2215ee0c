"""README's figures are those of the committed demo run."""

from __future__ import annotations

import importlib.util
import io
import json
import re

import pytest
from rich.console import Console
from support.pages import ROOT

from diffc.measure.frontier.standing import own_standing
from diffc.report import terminal
from diffc.report.model import Report

README = (ROOT / "README.md").read_text("utf-8")


@pytest.fixture(scope="module")
def chart():
    spec = importlib.util.spec_from_file_location("chart", ROOT / "scripts" / "readme_chart.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def report(chart):
    return Report.read(chart.REPORT)


def test_the_sample_is_what_the_report_shows(report):
    screen = io.StringIO()
    terminal.show(report, Console(file=screen, width=80))
    shown = iter(line.rstrip() for line in screen.getvalue().splitlines())
    fences = dict(re.findall(r"^```(\w*)\n(.*?)^```$", README, re.M | re.S))
    sample = fences[""].splitlines()
    assert 8 <= len(sample) <= 14
    for line in filter(None, sample):
        assert line in shown, f"not in the report, or in another place: {line}"  # in this order


def test_the_chart_is_what_its_script_draws(chart, report):
    assert chart.PICTURE.read_text() == chart.draw(report), "run scripts/readme_chart.py"


def test_the_figures_beside_the_chart_are_the_reports(report):
    image = report.pipeline[0]
    dense, small = (side.latency_ms.p50 for side in (image.dense, image.compressed))
    assert f"dense engine {dense:.0f} ms, compressed engine {small:.0f} ms" in README
    assert f"SSIM {report.quality['ssim']['mean']:.3f}".replace("0.", ".") in README
    cores = f"two cores of an {report.environment['cpu']}, {report.created[:10]}"
    assert cores in " ".join(README.split())
    own = own_standing(report.frontiers[0])
    assert (own.kind, own.own.loop, own.rival.loop) == ("ahead", "ddim:2", "ddim:1")
    value = f"{own.rival.figures['ssim'].value:.3f}".replace("0.", ".")
    assert f"the dense model has one step, and SSIM {value}" in " ".join(README.split())
    worst = f"{min(report.quality['ssim']['each']):.3f}".replace("0.", ".")
    assert f"{worst} for the worst of {report.quality['ssim']['n']}" in README


def test_the_whole_runs_are_the_measured_ones():
    results, words = ROOT / "bench" / "results", " ".join(README.split())
    seconds = [json.loads((results / name).read_text())["seconds"]
               for name in ("demo.json", "demo-avx2.json")]  # fmt: skip
    with_it, without = (f"{round(s) // 60} min {round(s) % 60} s" for s in seconds)
    assert f"the whole run took {with_it}, and {without} on two cores without AVX-512" in words
    flags = json.loads((results / "demo-avx2.json").read_text())["environment"]["cpu_flags"]
    assert "avx2" in flags and not any(flag.startswith("avx512") for flag in flags)


def test_every_link_leads_to_a_file():
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert (ROOT / link).is_file(), link


def test_the_page_is_short():
    assert len(README.splitlines()) <= 100


def test_the_figures_of_the_longer_training_are_the_frontiers():
    rows = json.loads((ROOT / "bench" / "results" / "frontier.json").read_text())["rows"]
    of = {f"{row['model']} {row['loop']}": row for row in rows}
    dense, student = of["dense ddim:50"], of["compressed, distilled for 1 step own:1"]
    times = dense["cost"] / student["cost"]
    further = student["frechet"]["value"] / dense["frechet"]["value"]
    words = f"{times:.0f} times as fast as the 50 dense steps, at {further:.2f} times".replace(
        "0.", "."
    )
    assert words in " ".join(README.split())
