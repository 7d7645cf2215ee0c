"""The section on what a millisecond buys, its plots, and the verdict at equal time."""

from __future__ import annotations

import io
import math
import re
import sys
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console
from support.command import diffc_in_process
from support.frontiers import around, frontier, half_cut, point
from support.reports import find_part, notes_of, rows_of

from diffc.errors import InputError, UnavailableError
from diffc.measure.frontier.rungs import image_ladder
from diffc.measure.frontier.served import with_times_of
from diffc.report import terminal
from diffc.report.frontier_figure import frontier_figure
from diffc.report.frontiers import advice, crossing_words, verdict_words
from diffc.report.html import to_html
from diffc.report.markdown import to_markdown
from diffc.report.model import Report
from diffc.report.plot import HEIGHT, Mark, Plot, draw
from diffc.report.verdict import summary, verdict

ROOT = Path(__file__).parents[2]
DEMO_RUN = Path(__file__).parent / "older.json"
TITLE = "What a millisecond buys"


@pytest.fixture
def demo():
    report = Report.read(DEMO_RUN)
    report.quality["ssim"] |= {"mean": 0.93, "each": [0.9, 0.96], "n": 2}
    report.frontiers = [half_cut()]
    return report


def on_screen(report, width) -> str:
    screen = io.StringIO()
    terminal.show(report, Console(file=screen, width=width))
    return screen.getvalue()


def test_a_dominated_loop_is_called_so_with_what_to_do(demo):
    one = verdict(demo)
    assert one.kind == "behind"
    assert one.words.startswith(
        "BEHIND THE DENSE MODEL AT EQUAL TIME: dense ddim:30 takes as long on ort-cpu"
    )
    assert "--loop ddim:10" in one.advice and "the dense model with ddim:30" in one.advice
    last = summary(demo)
    assert "BEHIND dense ddim:30 at equal time (SSIM 0.980 in 300 ms)" in last
    assert "--loop ddim:10 is ahead at its own time, SSIM 0.870 in 60 ms" in last
    assert " ".join(on_screen(demo, 80).split()).endswith(last)


def test_a_loop_that_is_ahead_says_so(demo):
    demo.frontiers = [half_cut("ddim:10")]
    one = verdict(demo)
    assert one.kind == "ahead" and one.words.startswith("AHEAD OF THE DENSE MODEL AT EQUAL TIME: ")
    assert one.advice == "" and "BEHIND" not in summary(demo)
    assert verdict_words(demo.frontiers[0]).startswith(
        "ahead at equal time: ddim:10 has SSIM 0.870 in 60 ms, dense ddim:5 has SSIM 0.820 in 50 ms"
    )


def test_ahead_and_far_from_the_reference_loop_says_both(demo):
    demo.quality["ssim"]["mean"] = 0.6
    demo.frontiers = [half_cut("ddim:5")]
    one = verdict(demo)
    assert one.kind == "ahead" and "FAR FROM ITS REFERENCE LOOP" in one.words
    assert "--distill-steps" in one.advice
    demo.loop_distillation = {"steps": 300, "loops": ["ddim:2"]}
    assert "distill.loop.steps" in verdict(demo).advice


def test_where_no_compressed_loop_is_ahead_training_for_one_is_advised():
    made = frontier(
        point("dense", "ddim:3", 30, around(0.9)),
        point("compressed", "ddim:50", 300, around(0.8), ("own",)),
    )
    assert "no compressed loop that was measured" in advice(made)
    assert "--loop own:2 --distill-for loop" in advice(made)
    assert crossing_words(made) == ""


def test_a_loop_faster_than_any_dense_one():
    made = frontier(
        point("dense", "ddim:1@trailing", 10, around(0.1)),
        point("compressed", "ddim:1@trailing", 6, around(0.8), ("own",)),
    )
    words = verdict_words(made)
    assert "no dense loop that was measured is as fast" in words and "1.67x as long" in words


def test_the_crossing_is_between_two_measured_loops(demo):
    assert crossing_words(demo.frontiers[0]) == (
        "the curves cross between 60 ms, where compressed ddim:10 is ahead, and 300 ms, where "
        "ddim:50 is behind"
    )


def test_the_table_has_every_loop_once_and_marks_the_front(demo):
    rows = rows_of(find_part(demo, TITLE))
    assert [row[0] for row in rows] == [
        "ddim:50", "ddim:30", "ddim:10", "ddim:5", "ddim:3", "ddim:1@trailing"
    ]  # fmt: skip
    assert rows[0] == ("ddim:50", "500 ms", "* 1.000", "300 ms", "0.930")
    assert rows[2] == ("ddim:10", "100 ms", "* 0.920", "60 ms", "* 0.870")
    assert rows[4][3:] == ("", "")


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_no_figure_is_cut_at_any_width(demo, width):
    shown = on_screen(demo, width)
    part = shown[shown.index(TITLE) :]
    for cell in ("500 ms", "* 0.920", "* 0.870", "0.930", "60 ms", "ddim:1@trailing"):
        assert cell in part, cell
    assert max(map(len, shown.splitlines())) <= width
    assert "SSIM to dense ddim:50" in part and "ms an image, logarithmic" in part


def test_the_plot_has_every_point_where_it_belongs():
    marks = [Mark(1, 0.0, "d"), Mark(10, 1.0, "C"), Mark(100, 0.5, "D")]
    lines = draw(Plot(marks, "ms", "SSIM", "key"), 60)
    grid = [line.split("|")[1].ljust(60) for line in lines if "|" in line]
    assert len(grid) == HEIGHT
    wide = max(line.rstrip().__len__() for line in grid)
    assert grid[-1][0] == "d" and grid[HEIGHT // 2].rstrip()[-1] == "D"
    assert grid[0].index("C") == pytest.approx((wide - 1) / 2, abs=1)


def test_a_plot_has_no_room_or_no_points():
    assert draw(Plot([], "ms", "SSIM", "key"), 80) == []
    assert draw(Plot([Mark(1, 1, "d")], "ms", "SSIM", "key"), 10) == []
    assert len(draw(Plot([Mark(1, 1, "d")], "ms", "SSIM", "key"), 40)) == HEIGHT + 4


def test_every_rendering_has_the_figures_and_the_picture(demo):
    page, text = to_html(demo), to_markdown(demo).replace("\\", "")
    for figure in ("0.870", "300 ms", "ddim:1@trailing"):
        assert figure in page and figure in text
    picture = next(svg for svg in re.findall("<svg.*?</svg>", page, re.S) if "polyline" in svg
                   and "ddim:30" in svg)  # fmt: skip
    assert picture.count("<circle") == 10 + 2  # every point, and two in the key
    assert "dense ddim:30: 300 ms, 0.980" in picture


def test_points_without_a_figure_say_why(demo):
    made = demo.frontiers[0]
    made.points.append(
        point("compressed", "ddim:2", 9).model_copy(update={"unjudged": "it gave NaN"})
    )
    part = find_part(demo, TITLE)
    assert ("ddim:2", "", "", "9 ms", "-") in rows_of(part)
    assert "compressed ddim:2: not judged: it gave NaN" in notes_of(part)


def test_a_frontier_without_any_figure_is_no_verdict(demo):
    demo.frontiers = [frontier(point("dense", "ddim:3", 30), point("compressed", "ddim:3", 20))]
    assert verdict(demo).kind == "close"
    assert "no loop's images could be judged" in notes_of(find_part(demo, TITLE))


def test_the_ladder_and_the_time_of_an_image_agree(demo):
    """The rungs from the dense engine on multiply to the speed-up of whole images."""
    for loop in ("ddim:10", "ddim:50"):
        curves = half_cut(loop)
        image = with_times_of(next(one for one in demo.pipeline if not one.absent), curves)
        dense, *rungs = image_ladder(curves)[1:]
        product = math.prod(rung.by.median for rung in rungs)
        assert dense.point.side == "dense"
        assert product == pytest.approx(image.speedup.median, rel=0.02)
        assert rungs[-1].point.latency_ms == image.compressed.latency_ms


def test_the_product_is_in_the_headline(demo):
    demo.frontiers = [half_cut("ddim:10")]
    words = "16.7x as fast an image as torch eager on ort-cpu (ddim:10 against ddim:50)"
    assert words in to_markdown(demo).replace("\\", "")
    assert "one image beside torch eager on ort-cpu" in to_html(demo)


def test_the_product_names_the_distance_where_that_is_exact_enough(demo):
    demo.frontiers = [half_cut("ddim:10")]
    figure = {
        "dense": 0.5,
        "compressed": 0.45,
        "se": {"dense": 0.02, "compressed": 0.015},
        "n": 999,
    }
    demo.quality["own-frechet"] = figure | {"features": "the dense model"}
    words = (
        "16.7x as fast an image as torch eager on ort-cpu (ddim:10 against ddim:50), at 0.90 ± "
        "0.05 times the dense model's own Frechet distance (999 images)"
    )
    assert words in to_markdown(demo).replace("\\", "")
    for broken in ({"se": {"dense": 0.2, "compressed": 0.015}}, {"dense": -0.01}, {"se": {}}):
        demo.quality["own-frechet"] = figure | broken
        assert "times the dense model's own" not in to_markdown(demo)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
def test_the_frontier_is_drawn_into_a_file(demo, kind, start):
    both = half_cut("ddim:10")
    demo.frontiers = [both, both.model_copy(update={"target": "openvino"})]
    content = frontier_figure(demo, kind)
    assert content.startswith(start) and content == frontier_figure(demo, kind)


@pytest.mark.slow
def test_a_figure_is_as_high_as_it_has_targets(demo):
    one = half_cut("ddim:10")
    heights = []
    for frontiers in ([one], [one, one.model_copy(update={"target": "openvino"})]):
        demo.frontiers = frontiers
        heights.append(Image.open(io.BytesIO(frontier_figure(demo, "png"))).size)
    assert heights[1] == (heights[0][0], 2 * heights[0][1])


def test_a_report_without_a_frontier_is_not_drawn(demo):
    demo.frontiers = []
    with pytest.raises(InputError, match="no frontier to draw"):
        frontier_figure(demo, "png")


def test_without_matplotlib_what_to_install_is_named(demo, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UnavailableError) as caught:
        frontier_figure(demo, "png")
    assert caught.value.hint == "pip install 'diffc[plot]'"


def test_the_verb_draws_it(tmp_path):
    path = tmp_path / "new" / "frontier.png"
    run = ROOT / "bench" / "results" / "demo-run.json"
    result = diffc_in_process("report", run, "--plot", path, "--quiet")
    assert result.returncode == 0, result.stderr
    assert Image.open(path).size[0] > 1000
    for words, because in (
        (["--plot", "a.gif"], ".png, .svg, .pdf"),
        ([run, "--plot", path], "one report"),
    ):
        result = diffc_in_process("report", run, *words)
        assert result.returncode == 2 and because in result.stderr
