"""Goals of a search from end to end: memory, distance; and a search that is killed in a trial."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest
from support.pipelines import save_image
from support.toy_search import GOAL, OPTIONS, VALUES

import diffc
from diffc.trials.running import GoalsMissed
from diffc.trials.trials import TRIALS


def test_memory_that_no_engine_has_is_known_without_training(
    searched, searched_cache, tiny_model, tmp_path
):
    with pytest.raises(GoalsMissed) as caught:
        diffc.search(tiny_model, out=tmp_path / "out", options=OPTIONS, max_memory="1MB", **VALUES)
    error = caught.value
    assert error.exit_code == 1 and "at most 1 MB of memory" in str(error)
    assert "MB of memory" in str(error).partition("the nearest")[2]
    assert error.result.trials == [] and len(error.result.untried) == 4
    assert all(one.why.startswith("measured: ") for one in error.result.untried)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_memory_that_all_engines_have_leaves_the_closest(
    searched, searched_cache, tiny_model, tmp_path
):
    goals = {"max_memory": "8GB", "max_latency": "20s"}
    result = diffc.search(tiny_model, out=tmp_path / "out", options=OPTIONS, **goals, **VALUES)
    assert all(one.memory_bytes > 1e6 for one in result.candidates)
    best = max(result.candidates, key=lambda one: one.point.figures["ssim"].value)
    assert result.chosen == best.values
    assert diffc.Report.read(tmp_path / "out").targets[0].parity.passed


@pytest.mark.slow
def test_a_distance_is_in_multiples_of_the_dense_models_own(tiny_model, tmp_path):
    """An untrained network is far from any images, so that its own distance is sure."""
    data = tmp_path / "images"
    data.mkdir()
    for grey in range(12):
        save_image(data / f"{grey}.png", 20 * grey)
    options = {**OPTIONS, "data": {**OPTIONS["data"], "source": str(data)},
               "quality": {**OPTIONS["quality"], "images": 12}}  # fmt: skip
    values = {**VALUES, "ratio": [0.2], "loop": ["ddim:2"]}
    result = diffc.search(
        tiny_model, out=tmp_path / "out", options=options, max_distance=50, **values
    )
    (one,) = result.candidates
    assert 0 < one.distance <= 50 and one.reaches
    assert one.point.figures["own-frechet"].se > 0


@pytest.mark.slow
def test_a_search_killed_in_a_trial_does_nothing_twice(searched, tiny_model, tmp_path):
    """The same command goes on from the last checkpoint, to the same figures."""
    words = {"out": str(tmp_path / "out"), "options": OPTIONS, "min_ssim": GOAL, **VALUES}
    cache = tmp_path / "cache"

    def run(kill: bool) -> subprocess.CompletedProcess[str]:
        code = textwrap.dedent(f"""
            import json, os, diffc
            finished, headings = [], 0
            def watch(event):
                global headings
                headings += event.kind == "heading" and event.note.startswith("trial ")
                if event.kind == "finished":
                    finished.append(event.done.key)
                done = event.progress and event.progress.done
                if {kill} and headings and event.stage == "distill" and done and done >= 3:
                    os.kill(os.getpid(), {int(signal.SIGKILL)})
            result = diffc.search({str(tiny_model)!r}, on_event=watch, **{words!r})
            print(json.dumps([finished, result.model_dump(mode="json")]))
        """)
        environment = {**os.environ, "DIFFC_CACHE": str(cache)}
        return subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True
        )

    assert run(kill=True).returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    before = {json.loads(path.read_text())["key"] for path in cache.glob("done/*/stage.json")}
    assert before and any((cache / TRIALS).iterdir())
    again = run(kill=False)
    assert again.returncode == 0, again.stderr
    finished, result = json.loads(again.stdout.splitlines()[-1])
    assert not before & set(finished), "a stage was done twice"
    assert not any((cache / TRIALS).iterdir())
    ours = {tuple(one["values"].values()): one["point"]["figures"] for one in result["candidates"]}
    theirs = {tuple(one.values.values()): one.point for one in searched[1].candidates}
    both = ours.keys() & theirs.keys()
    assert both
    for name in both:
        value = theirs[name].figures["ssim"].value
        assert ours[name]["ssim"]["value"] == pytest.approx(value, abs=1e-6)
    record = next(
        json.loads(path.read_text()) for path in (tmp_path / "out/.diffc").glob("distill.json")
    )
    assert record["result"]["resumed_from"] or len(result["trials"]) > 1
