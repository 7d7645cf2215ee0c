"""Every figure is of what it says: steps are no images, and noise is no speed-up."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console
from support.reports import find_part, rows_of

from diffc.measure.results import Ladder, Latency, MachineNoise, Rung, Speedup
from diffc.report import terminal
from diffc.report.html import to_html
from diffc.report.markdown import to_markdown
from diffc.report.model import Report
from diffc.report.sections import parts
from diffc.report.sections.headline import headline
from diffc.report.verdict import summary

ROOT = Path(__file__).parents[2]


@pytest.fixture
def report():
    """The committed run of the demo, as an older diffc wrote it."""
    return Report.read(ROOT / "tests" / "report" / "older.json")


def figures_of(report: Report, title: str) -> dict[str, tuple[str, ...]]:
    return {row[0]: row[1:] for row in rows_of(find_part(report, title)) if row[0]}


def test_images_per_second_are_images(report):
    """20 steps make one image: its rate is no rate of single calls."""
    calls, images = (
        figures_of(report, title) for title in ("One step on ort-cpu, fp32", "One image (")
    )
    assert "images per second" not in calls and "steps per second" not in images
    loop = next(r for r in report.pipeline if r.speedup is not None)
    shown = float(images["images per second"][0])
    assert shown == pytest.approx(1e3 / loop.dense.latency_ms.p50, rel=0.01)
    call = next(r for r in report.targets if r.speedup is not None)
    assert float(calls["steps per second"][0]) == pytest.approx(
        1e3 / call.dense.latency_ms.p50, rel=0.01
    )


def test_at_a_larger_batch_a_call_is_one_call(report):
    result = report.targets[0].model_copy(update={"batch": 4})
    result.dense.throughput_per_s, result.dense.calls_per_s = 400.0, None
    report.targets = [result]
    assert (
        figures_of(report, "One step on ort-cpu, fp32, batch 4")["steps per second"][0] == "100.0"
    )
    result.dense.calls_per_s = 99.0
    assert figures_of(report, "One step on ort-cpu, fp32, batch 4")["steps per second"][0] == "99.0"


@pytest.mark.parametrize("show", [to_markdown, to_html], ids=["markdown", "html"])
def test_every_rendering_says_what_an_image_was_made_with(report, show):
    details = {"steps": 20, "sampler": "ddim", "guidance": 7.0, "decoded": True,
               "calls_per_step": 2, "rows_per_call": 1}  # fmt: skip
    report.pipeline = [report.pipeline[0].model_copy(update={"details": details})]
    text = show(report).lower()
    assert "one image (20 steps, ddim, guidance 7, decoded) on ort-cpu, fp32" in text.replace(
        "\\", ""
    )
    assert "each step: 2 calls of batch 1" in text
    details["decoded"] = False
    assert "guidance 7, without decoding" in show(report)


def test_an_older_reports_loop_says_what_it_left_out(report):
    assert "no guidance, conditions of zeros and no decoder" in to_markdown(report)
    assert "no guidance, conditions of zeros and no decoder" in to_html(report)


def test_an_image_that_was_not_measured_says_why(report):
    told = "the runtime has no sampler for EDMEulerScheduler"
    report.pipeline = [report.pipeline[0].model_copy(update={"speedup": None, "absent": told})]
    assert f"not measured: {told}" in to_markdown(report).replace("\\", "")
    report.targets[0].absent = told  # said once is enough
    assert "one image" not in [part.title[:9].lower() for part in parts(report)]


def with_ratio(report: Report, median: float, low: float, high: float) -> Report:
    ratio = Speedup(median=median, ci95=(low, high), ci99=(low, high), pairs=10)
    for result in (*report.targets, *report.pipeline):
        if result.speedup is not None:
            result.speedup = ratio
    return report


@pytest.mark.parametrize(
    ("ratio", "shown"),
    [((0.39, 0.27, 1.22), False), ((1.02, 0.99, 1.05), False), ((1.0, 1.0, 1.0), False),
     ((1.76, 1.74, 1.78), True), ((0.80, 0.78, 0.82), True)],
)  # fmt: skip
def test_an_interval_that_holds_1_is_no_speed_up(report, ratio, shown):
    median, low, high = ratio
    report = with_ratio(report, median, low, high)
    figure = f"{median:.2f}x, 95 % [{low:.2f}, {high:.2f}] within this run"
    assert (f"{median:.2f}x as fast" in headline(report)) == shown
    assert headline(report).startswith(f"NO SPEED-UP SHOWN: one image {figure}") == (not shown)
    assert (f"no speed-up shown: {figure}" in summary(report)) == (not shown)
    for text in (to_markdown(report).replace("\\", ""), to_html(report)):
        assert (f"{median:.2f}x as fast" in text) == shown
        assert ("no speed-up shown" in text) == (not shown)
        assert f"[{low:.2f}, {high:.2f}]" in text


@pytest.mark.parametrize("ratio", [(0.39, 0.27, 1.22), (1.76, 1.74, 1.78)])
def test_an_interval_of_times_says_that_it_is_of_this_run(report, ratio):
    """In every rendering: the drift between runs is not in it."""
    report = with_ratio(report, *ratio)
    words = f"95 % [{ratio[1]:.2f}, {ratio[2]:.2f}]"
    screen = Console(file=io.StringIO(), width=100)
    terminal.show(report, screen)
    page = re.sub(r"<[^>]*>", " ", to_html(report))
    for text in (screen.file.getvalue(), to_markdown(report).replace("\\", ""), page):
        text = " ".join(text.replace("|", " ").split())
        places = [match.start() for match in re.finditer(re.escape(words), text)]
        assert places
        for place in places:
            near = text[max(0, place - 60) : place + len(words) + 20]
            assert "within this run" in near, near


def ladder(noise: MachineNoise | None, p90: float = 11.0) -> Ladder:
    latency = Latency(p50=10.0, p90=p90, p95=p90, p99=p90, mean=10.0, n=9)
    return Ladder(
        target="ort-cpu", precision="fp32", batch=1, noise=noise,
        rungs=[Rung(label="torch eager, fp32", cause="", latency_ms=latency),
               Rung(label="dense engine, fp32", cause="engine", latency_ms=latency)],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("noise", "p90", "marked"),
    [(MachineNoise(steady=True, load=2.1, cores=2), 11.0, False),
     (None, 11.0, False),
     (MachineNoise(steady=True, load=8.3, cores=2), 11.0, True),
     (MachineNoise(steady=False, load=0.1, cores=2), 11.0, True),
     (MachineNoise(steady=None, load=0.1, cores=2), 11.0, False),
     (MachineNoise(steady=True, cores=2, gpu_busy="python, 900 MiB"), 11.0, True),
     (MachineNoise(steady=True, load=0.5, cores=2), 40.0, True)],
)  # fmt: skip
def test_a_rung_taken_on_a_busy_machine_has_a_mark(report, noise, p90, marked):
    report.ladders = [ladder(noise, p90)]
    for text in (to_markdown(report).replace("\\", ""), to_html(report)):
        assert ("* dense engine, fp32" in text) == marked
        assert ("timed on a busy machine" in text) == marked
