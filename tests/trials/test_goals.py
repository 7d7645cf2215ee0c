"""Goals as people write them, and what is refused before anything is loaded."""

from __future__ import annotations

import pytest

from diffc.errors import RequestError
from diffc.trials.goals import Goals, read_goals


def test_amounts_are_read_in_every_unit():
    goals = read_goals(
        {"max_latency": "1.5s", "speedup": "8x", "max_memory": "2GB", "min_ssim": ".85",
         "max_distance": 1.2}
    )  # fmt: skip
    assert goals.by_name == {
        "max_latency": 1500.0, "speedup": 8.0, "max_memory": 2e9, "min_ssim": 0.85,
        "max_distance": 1.2,
    }  # fmt: skip
    assert read_goals({"min_ssim": "85%"}) == read_goals({"min_ssim": 0.85})
    assert read_goals({"max_latency": "30ms"}).by_name == {"max_latency": pytest.approx(30.0)}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "search needs a goal"),
        ({"max_latency": "30"}, "--max-latency 30: not a limit such as 30ms"),
        ({"max_latency": "-30ms"}, "not a limit"),
        ({"max_latency": "0ms"}, "not a limit"),
        ({"max_latency": "5%"}, "not a limit such as 30ms"),
        ({"max_latency": "2GB"}, "not a limit such as 30ms"),
        ({"max_memory": "0GB"}, "not a limit such as 500MB"),
        ({"max_memory": "30ms"}, "not a limit such as 500MB"),
        ({"speedup": "fast"}, "not a factor"),
        ({"speedup": "nan"}, "not a factor"),
        ({"speedup": "-8"}, "not a factor"),
        ({"speedup": "1"}, "not above 1"),
        ({"min_ssim": "85"}, "not a share"),
        ({"min_ssim": "0"}, "not a share"),
        ({"min_ssim": "-.5"}, "not a share"),
        ({"min_ssim": "alike"}, "not a share"),
        ({"max_distance": "0"}, "not a factor"),
        ({"max_distance": "inf"}, "not a factor"),
        ({"min_ssim": "1", "speedup": "8"}, "--min-ssim 1 and --speedup contradict"),
        ({"min_ssim": "100%"}, "--min-ssim 1 has no answer"),
    ],
)
def test_what_is_no_goal_is_refused_in_a_line(given, words):
    with pytest.raises(RequestError) as caught:
        read_goals(given)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_percentage_without_its_sign_has_a_hint():
    with pytest.raises(RequestError) as caught:
        read_goals({"min_ssim": "85"})
    assert caught.value.hint == "did you mean --min-ssim 85%?"


def test_shortfalls_are_shares_of_the_goals():
    goals = Goals(max_latency=20.0, speedup=10.0, min_ssim=0.8, max_distance=1.0)
    reached = {"max_latency": 20.0, "speedup": 10.0, "min_ssim": 0.8, "max_distance": 1.0}
    assert goals.shortfalls(reached) == {}
    missed = goals.shortfalls({"max_latency": 30.0, "speedup": 5.0, "min_ssim": 0.6})
    assert missed == {
        "max_latency": pytest.approx(0.5),
        "speedup": pytest.approx(0.5),
        "min_ssim": pytest.approx(0.25),
        "max_distance": 1.0,  # what was not measured is missed by all of it
    }


def test_a_goal_of_quality_asks_for_the_fastest():
    assert Goals(max_latency=30.0, min_ssim=0.8).wants_fastest
    assert not Goals(max_latency=30.0, max_memory=1e9).wants_fastest


def test_a_search_trains_for_any_loop_unless_the_user_says_otherwise() -> None:
    """The demo's own recipe trains for one loop; a search compares many."""
    from diffc.recipe import resolve
    from diffc.trials.goals import for_any_loop

    def recipe(options, named=None):
        flags = for_any_loop(options, named)
        return resolve(family="UNet2DModel", model="demo", recipe=named, flags=flags)

    plain = recipe({"prune": {"ratio": 0.3}})
    assert (plain.distill.aim, plain.loops, plain.prune.ratio) == ("all-steps", (), 0.3)
    assert recipe({"distill": {"aim": "loop"}}).distill.aim == "loop"
    assert recipe({"distill": {"aim": None, "steps": 3}}).distill.aim == "all-steps"
    assert recipe({}, "demo").distill.aim == "loop"
