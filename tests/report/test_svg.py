"""Charts: what is drawn lies where the numbers say, inside the view box."""

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffc.report import svg
from diffc.report.markup import Html, joined, tag

finite = st.floats(1e-6, 1e6)


def drawn(chart):
    return ET.fromstring(str(chart))


def test_strings_are_escaped_and_markup_is_not():
    assert (
        tag("p", "<b>", Html("<i></i>"), title='"x"')
        == '<p title="&quot;x&quot;">&lt;b&gt;<i></i></p>'
    )
    assert joined("a & b", None, 3) == "a &amp; b3"
    assert tag("input", checked=True, disabled=False, value=None) == "<input checked>"


@settings(deadline=None)
@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_ticks_are_round_and_inside(low, span):
    ticks = svg.round_ticks(low, low + span)
    assert len(ticks) <= 11
    if low + span > low and len(ticks) > 1:
        slack = 1e-6 * (abs(low) + span)
        assert all(low - slack <= t <= low + span + slack for t in ticks)


def test_a_point_lies_where_it_belongs():
    chart = drawn(svg.line([(0, 0), (5, 5), (10, 10)], x_name="x", y_name="y", label="l"))
    xs = [(float(c.get("cx")), float(c.get("cy"))) for c in chart.iter("circle")]
    assert xs[1][0] == pytest.approx((xs[0][0] + xs[2][0]) / 2)
    assert xs[1][1] == pytest.approx((xs[0][1] + xs[2][1]) / 2)
    assert xs[2][1] < xs[0][1]  # up is more


def test_a_logarithmic_axis_spaces_powers_evenly():
    chart = drawn(svg.line([(0, 0.01), (1, 0.1), (2, 1)], x_name="", y_name="", label="", log=True))
    ys = [float(c.get("cy")) for c in chart.iter("circle")]
    assert ys[0] - ys[1] == pytest.approx(ys[1] - ys[2])
    assert {"0.01", "0.1", "1"} <= {t.text for t in chart.iter("text")}


@settings(deadline=None)
@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=40), st.booleans())
def test_lines_stay_inside(points, log):
    chart = drawn(svg.line(sorted(points), x_name="x", y_name="y", label="l", log=log))
    height = float(chart.get("viewBox").split()[3])
    for dot in chart.iter("circle"):
        assert -1 <= float(dot.get("cx")) <= svg.WIDTH + 1 and -1 <= float(dot.get("cy")) <= height


@settings(deadline=None)
@given(st.lists(finite, min_size=1, max_size=60), st.lists(finite, min_size=1, max_size=60))
def test_histograms_stay_inside_and_count_everything(first, second):
    chart = drawn(svg.histogram([("a", first), ("b", second)], "ms", "l"))
    bars = list(chart.iter("rect"))
    assert all(float(b.get("x")) >= svg.LEFT and float(b.get("height")) <= 46.01 for b in bars)
    assert {b.get("class") for b in bars} == {"first", "second"}
    for b in bars:
        assert float(b.get("x")) + float(b.get("width")) <= svg.WIDTH


@pytest.mark.parametrize(("share", "of"), [(0.25, 0.5), (0.0, 1.0), (2.0, 1.0)])
def test_bars(share, of):
    widths = [float(r.get("width")) for r in drawn(svg.bar(share, of)).iter("rect")]
    assert widths[-1] == pytest.approx(200 * min(share, 1.0))
    assert len(widths) == 1 or widths[0] == pytest.approx(200 * of)


@settings(deadline=None)
@given(st.lists(finite, min_size=1, max_size=8))
def test_steps_are_drawn_to_one_scale_each_in_the_outline_of_the_one_before(values):
    chart = drawn(svg.steps([(str(i), v, "w") for i, v in enumerate(values)], "ms", "l"))
    bars = list(chart.iter("rect"))
    filled = [float(b.get("width")) for b in bars if b.get("class") != "outline"]
    outlines = [float(b.get("width")) for b in bars if b.get("class") == "outline"]
    room = svg.WIDTH - svg.RIGHT - 6
    assert filled == pytest.approx([room * v / max(values) for v in values], rel=1e-3, abs=1e-3)
    assert outlines == pytest.approx([filled[0], *filled[:-1]], rel=1e-3, abs=1e-3)
    assert bars[-2].get("class") == "second" or len(values) == 0


loops = st.lists(st.tuples(st.floats(1, 1e4), st.floats(0, 1)), min_size=1, max_size=9)


@settings(deadline=None)
@given(loops, loops)
def test_names_at_fronts_cover_no_other(dense, small):
    sides = {"dense": dense, "compressed": small}
    named = {
        side: [(f"{side} {i}", x, y) for i, (x, y) in enumerate(points)]
        for side, points in sides.items()
    }
    series = [svg.Series(side, points, points) for side, points in named.items()]
    words = {text.text: text for text in drawn(svg.fronts(series, "ms", "SSIM", "")).iter("text")}
    shown = [words[name] for points in named.values() for name, _, _ in points if name in words]
    assert shown[-1].text == f"compressed {len(small) - 1}"
    boxes = [(float(t.get("x")), float(t.get("y")), 6 * len(t.text)) for t in shown]
    for i, (x, y, length) in enumerate(boxes):
        for left, line, other in boxes[:i]:
            assert abs(y - line) >= 12 or x + length < left or left + other < x
