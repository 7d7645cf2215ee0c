"""A whole search of a tiny model: the winner, what it shares, and what goes on."""

from __future__ import annotations

import pytest
from support.command import diffc_in_process
from support.toy_search import GOAL, OPTIONS, VALUES

import diffc
from diffc.cache_contents import TRIALS
from diffc.output import locked_recipe, read_lock
from diffc.trials.running import GoalsMissed


def again(model, out, events=None, **settings):
    wanted = {"min_ssim": GOAL, **VALUES, **settings}
    return diffc.search(model, out=out, options=OPTIONS, on_event=events, **wanted)


@pytest.mark.slow
def test_the_winner_is_the_fastest_that_reaches_the_goal(searched):
    _, result, _ = searched
    able = [one for one in result.candidates if one.reaches]
    assert result.chosen == able[0].values
    assert all(one.point.figures["ssim"].value >= GOAL for one in able)
    times = [one.point.latency_ms.p50 for one in result.candidates]
    assert times == sorted(times)
    assert len(result.candidates) + len(result.untried) == 4
    assert all(one.why for one in result.untried)


@pytest.mark.slow
def test_out_is_the_winners(searched):
    out, result, _ = searched
    recipe = locked_recipe(out)
    assert recipe.loops == (result.chosen["loop"],)
    assert f"{recipe.prune.ratio:g}" == result.chosen["ratio"]
    assert recipe.build.precision == result.chosen["precision"]
    report = diffc.Report.read(out)
    assert report.targets[0].parity.passed
    assert (out / "search.json").is_file()


@pytest.mark.slow
def test_times_of_all_that_was_trained_are_of_the_same_rounds(searched):
    _, result, _ = searched
    timed = [point for point in result.frontier.points if point.latency_ms is not None]
    assert {point.side for point in timed} == {"dense", "compressed"}
    assert len({len(point.round_ms) for point in timed}) == 1
    reference = result.frontier.with_role("dense", "reference")
    assert reference.loop == result.frontier.reference == "ddim:2"
    # the engine's images of the reference loop are what others are judged against
    assert reference.figures["ssim"].value == pytest.approx(1.0, abs=1e-3)


@pytest.mark.slow
def test_a_search_that_is_done_is_reused_whole(searched, searched_cache, tiny_model):
    out, result, cache = searched
    events = []
    same = again(tiny_model, out, events.append)
    assert same.chosen == result.chosen
    assert [event.stage for event in events if event.kind == "finished"] == []
    assert not any((cache / TRIALS).iterdir())


@pytest.mark.slow
def test_another_goal_shares_the_trials(searched, searched_cache, tiny_model, tmp_path):
    """What cannot be reached ends with the nearest point, and leaves no OUT."""
    _, result, _ = searched
    trained = {tuple(one.values.values()) for one in result.trials}
    events = []
    with pytest.raises(GoalsMissed) as caught:
        again(tiny_model, tmp_path / "out", events.append, min_ssim=0.2, speedup=500)
    error = caught.value
    assert error.exit_code == 1
    assert "500x as fast" in str(error) and "the nearest" in str(error)
    assert "\n" not in str(error)
    assert error.result.chosen is None and error.result.nearest is not None
    assert not (tmp_path / "out").exists()
    # no loop is 500 times as fast, which is known without training
    assert error.result.trials == []
    assert len(trained) >= 1
    built = [event.stage for event in events if event.kind == "finished"]
    assert set(built) <= {"search-points-ort-cpu"}


@pytest.mark.slow
def test_a_run_of_another_request_is_left_as_it_is(searched, searched_cache, tiny_model):
    out, _, _ = searched
    before = read_lock(out)
    with pytest.raises(diffc.DiffcError, match="finished run of another request"):
        again(tiny_model, out, min_ssim=0.25)
    assert read_lock(out) == before


@pytest.mark.slow
def test_the_screen_fits_and_says_what_was_not_tried(searched, capsys, monkeypatch):
    from diffc.cli.command import Command
    from diffc.cli.search import _show

    _, result, _ = searched
    for columns in (60, 80):
        monkeypatch.setenv("COLUMNS", str(columns))
        _show(result, Command())
        shown = capsys.readouterr().out
        assert max(map(len, shown.splitlines())) <= columns
        assert all(word in shown for word in ("speed-up", "SSIM", "Trainings", result.out))
        assert result.chosen["loop"] in shown
        assert ("Not tried" in shown) == bool(result.untried)


@pytest.mark.slow
def test_the_result_is_json(searched, searched_cache, tiny_model, tmp_path):
    import json

    import yaml

    out, result, _ = searched
    recipe = tmp_path / "quick.yaml"
    recipe.write_text(yaml.safe_dump(OPTIONS))
    done = diffc_in_process(
        "search", tiny_model, "--min-ssim", GOAL, "--ratio", "0.2,0.4", "--precision", "fp32",
        "--loop", "ddim:2,ddim:1", "--recipe", recipe, "--out", out, "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown.pop("out") == str(out)
    assert shown == result.model_dump(mode="json", exclude={"out"})


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), "search needs a goal"),
        (("--max-latency", "30"), "not a limit such as 30ms"),
        (("--min-ssim", "1", "--speedup", "8"), "contradict"),
        (("--speedup", "0"), "not a factor above 0"),
        (("--min-ssim", "0.8", "--target", "ort-cpu,openvino"), "one target"),
        (("--min-ssim", "0.8", "--precision", "auto"), "unknown precision"),
        (("--min-ssim", "0.8", "--loop", "dpm++"), "names its steps"),
        (("--min-ssim", "0.8", "--loop", "flow-euler:4"), "flow-euler:4"),
        (("--min-ssim", "0.8", "--ratio", "0.2,0.999"), "can be removed"),
        (("--max-distance", "1.2"), "--max-distance needs images"),
        (
            ("--min-ssim", "0.8", "--distill-for", "loop", "--loop", "dpm++:4"),
            "cannot be distilled",
        ),
    ],
)
def test_bad_input_is_refused_in_a_line_before_any_work(tiny_model, tmp_path, args, words):
    done = diffc_in_process("search", tiny_model, "--out", tmp_path / "out", *args)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2
    assert not (tmp_path / "out").exists()


def test_goals_are_read_before_the_model(tmp_path):
    done = diffc_in_process("search", tmp_path / "nothing", "--max-latency", "soon")
    assert "--max-latency soon" in done.stderr and done.returncode == 2


def test_the_api_names_an_unknown_argument(tiny_model):
    with pytest.raises(diffc.DiffcError, match="unknown argument") as caught:
        diffc.search(tiny_model, min_sim=0.8)
    assert "min_ssim" in caught.value.hint
