"""Who is ahead at equal time."""

import random

import pytest
from support.frontiers import around, frontier, half_cut, noisy, point

from diffc.measure.frontier.results import ratio
from diffc.measure.frontier.rungs import image_ladder
from diffc.measure.frontier.standing import (
    AS_LONG,
    best_ahead,
    crossing,
    main_metric,
    own_standing,
    pareto,
    standing,
)


def test_a_cut_that_fewer_dense_steps_beat_is_behind():
    one = own_standing(half_cut())
    assert one.kind == "behind" and one.rival.loop == "ddim:30"
    assert one.difference.mean == pytest.approx(-0.05) and one.difference.ci95[1] < 0


def test_a_short_loop_is_ahead_of_every_dense_loop_of_its_time():
    one = own_standing(half_cut("ddim:10"))
    assert one.kind == "ahead" and one.rival.loop == "ddim:5"


def test_where_no_dense_loop_is_as_fast_none_is_compared():
    made = half_cut()
    one = standing(made, made.point("compressed", "ddim:1@trailing"))
    assert (one.kind, one.rival.loop, one.difference) == ("alone", "ddim:1@trailing", None)
    assert one.slower == pytest.approx(10 / 6, rel=0.01)


def test_a_difference_within_its_interval_is_level():
    made = frontier(
        point("dense", "ddim:8", 50, noisy(0.8)), point("compressed", "ddim:9", 50, around(0.801))
    )
    assert standing(made, made.point("compressed", "ddim:9")).kind == "level"


def test_one_image_shows_nothing():
    made = frontier(point("dense", "ddim:8", 50, [0.9]), point("compressed", "ddim:9", 50, [0.5]))
    assert standing(made, made.point("compressed", "ddim:9")).kind == "level"


def test_without_figures_nothing_is_said():
    made = frontier(point("dense", "ddim:8", 50), point("compressed", "ddim:9", 50, roles=("own",)))
    assert main_metric(made) is None and own_standing(made).kind == "unknown"
    assert crossing(made) is None and best_ahead(made) is None


def test_lower_is_better_where_the_metric_says_so():
    made = frontier(
        point("dense", "ddim:8", 50, around(0.3), metric="lpips"),
        point("compressed", "ddim:9", 50, around(0.2), roles=("own",), metric="lpips"),
    )
    assert own_standing(made).kind == "ahead"
    front = pareto(made.of("dense") + made.of("compressed"), main_metric(made))
    assert [one.side for one in front] == ["dense", "compressed"]


def test_the_curves_cross_between_two_measured_loops():
    made = half_cut()
    cross = crossing(made)
    assert (cross.ahead.own.loop, cross.behind.own.loop) == ("ddim:10", "ddim:50")
    assert best_ahead(made).own.loop == "ddim:10"


@pytest.mark.parametrize("seed", range(20))
def test_rival_and_front_against_brute_force(seed):
    draw = random.Random(seed)
    dense, small = (
        [
            point(side, f"ddim:{n}", draw.uniform(5, 90), around(draw.uniform(0.2, 0.9)))
            for n in range(1, 7)
        ]
        for side in ("dense", "compressed")
    )
    made = frontier(*dense, *small)

    def figure(one):
        return one.figures["ssim"].value

    for own in small:
        fits = [p for p in dense if p.latency_ms.p50 <= AS_LONG * own.latency_ms.p50]
        one = standing(made, own)
        assert one.rival is (max(fits, key=figure) if fits else made.of("dense")[0])
        assert (one.kind == "alone") == (not fits)
    metric = main_metric(made)
    beaten = [
        p
        for p in dense
        if any(q.latency_ms.p50 < p.latency_ms.p50 and figure(q) >= figure(p) for q in dense)
    ]
    expected = {p.loop for p in dense} - {p.loop for p in beaten}
    assert {p.loop for p in pareto(made.of("dense"), metric)} == expected


def test_points_of_other_runs_have_no_ratio():
    a, b = point("dense", "ddim:8", 50), point("compressed", "ddim:8", 25)
    assert ratio(a, b).median == pytest.approx(2)
    assert ratio(a, b.model_copy(update={"round_ms": [25.0]})) is None
    assert ratio(a, b.model_copy(update={"round_ms": []})) is None


def test_each_rung_of_an_image_is_one_change():
    rungs = image_ladder(half_cut("ddim:10"))
    assert [(rung.point.name, rung.cause) for rung in rungs] == [
        ("eager ddim:50", ""), ("dense ddim:50", "engine"),
        ("compressed ddim:50", "pruning"), ("compressed ddim:10", "loop"),
    ]  # fmt: skip
    product = 1.0
    for rung in rungs[1:]:
        product *= rung.by.median
    assert product == pytest.approx(rungs[-1].in_all.median, rel=1e-6)


def test_guidance_that_the_model_carries_is_a_rung():
    made = frontier(
        point("dense", "ddim:50:7", 1000, roles=("reference",)),
        point("compressed", "ddim:2", 12, roles=("own",)),
        point("compressed", "ddim:50:7", 600),
        point("compressed", "ddim:2:7", 24),
        reference="ddim:50:7",
    )
    assert [rung.cause for rung in image_ladder(made)] == [
        "",
        "pruning",
        "loop",
        "guidance carried",
    ]


def test_a_change_that_was_not_timed_apart_is_named_with_the_next() -> None:
    """A student of its loop has another spacing, and no point of the reference loop."""
    ladder = image_ladder(
        frontier(
            point("dense", "ddim:50", 1000, roles=("reference",)),
            point("compressed", "ddim:2", 20, roles=("own",)),
        )
    )
    assert [rung.cause for rung in ladder] == ["", "pruning and loop"]


def before_training(loop: str, values, role: str):
    """The all-steps student's images by one loop, which nobody timed."""
    blank = {"latency_ms": None, "round_ms": []}
    return point("all-steps", loop, 1, values, (role,)).model_copy(update=blank)


@pytest.mark.parametrize(
    ("guided", "causes"),
    [("", ["", "pruning", "loop", "distilled for it"]),
     (":7", ["", "pruning", "loop", "distilled for it, guidance carried"])],
)  # fmt: skip
def test_a_student_of_its_loop_is_shown_before_that_training(guided, causes) -> None:
    """Its own images by other loops say nothing of the cut; weights change no time."""
    reference = f"ddim:50{guided}"
    rungs = image_ladder(
        frontier(
            point("dense", reference, 1000, around(1.0), roles=("reference",)),
            before_training(reference, around(0.9), "reference"),
            before_training(f"ddim:2{guided}@trailing", around(0.3), "own"),
            point("compressed", "ddim:2", 12, around(0.8), roles=("own",)),
            point("compressed", f"{reference}@leading", 600),
            *([point("compressed", f"ddim:2{guided}", 24)] if guided else []),
            reference=reference,
        )
    )
    assert [rung.cause for rung in rungs] == causes
    shown = [rung.figures["ssim"].value for rung in rungs]
    assert shown == pytest.approx([1.0, 0.9, 0.3, 0.8])
    times = [rung.by.median for rung in rungs[1:]]
    assert times == pytest.approx([1000 / 600, 25, 2] if guided else [1000 / 600, 50, 1])


def test_a_student_of_the_reference_loop_has_no_two_rungs_of_one_label() -> None:
    loop = "ddim:50"
    rungs = image_ladder(
        frontier(
            point("dense", loop, 1000, around(1.0), roles=("reference",)),
            before_training(loop, around(0.9), "reference"),
            before_training(loop, around(0.9), "own"),
            point("compressed", loop, 600, around(0.95), roles=("own",)),
        )
    )
    assert [rung.cause for rung in rungs] == ["", "pruning", "distilled for it"]
    assert [rung.figures["ssim"].value for rung in rungs] == pytest.approx([1.0, 0.9, 0.95])
