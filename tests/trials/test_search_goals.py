"""Goals of a search from end to end, and a search that is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from support.pipelines import save_image
from support.toy_search import GOAL, OPTIONS, VALUES

import diffc
from diffc.trials.request import RESULT
from diffc.trials.results import SearchResult
from diffc.trials.running import GoalsMissed


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
def test_memory_is_a_goal_of_its_own(searched, searched_cache, tiny_model, tmp_path):
    """Every engine's peak is measured; one that no engine meets ends with the nearest."""
    wanted = {"options": OPTIONS, **VALUES, "min_ssim": GOAL}
    result = diffc.search(tiny_model, out=tmp_path / "out", max_memory="4GB", **wanted)
    # times of toys are near each other, so that another search may choose another of them
    able = [one for one in result.candidates if one.reaches]
    fastest = min(able, key=lambda one: one.point.latency_ms.p50)
    assert able and result.chosen == fastest.values
    peaks = [one.memory_bytes for one in result.candidates]
    assert all(1e7 < peak < 4e9 for peak in peaks)
    with pytest.raises(GoalsMissed) as caught:
        diffc.search(tiny_model, out=tmp_path / "no", max_memory="1MB", **wanted)
    assert "1 MB of memory" in str(caught.value) and "the nearest" in str(caught.value)
    assert caught.value.result.trials == [], "memory is known before any training"


KILLED = """
import diffc, json, os, signal, sys
model, out, kill = sys.argv[1:]
def note(event):
    if event.kind == "finished" and not event.done.cached:
        print(event.done.key, flush=True)
    elif event.stage == "distill" and event.progress and event.progress.done >= 2:
        if kill == "yes":
            os.kill(os.getpid(), signal.SIGKILL)
diffc.search(model, out=out, on_event=note, **json.loads(os.environ["WANTED"]))
"""


@pytest.mark.slow
def test_a_search_that_is_killed_goes_on_where_it_was(searched, compiled, tiny_model, tmp_path):
    """SIGKILL in its first training: nothing is done twice, and it ends as one left alone."""
    cache, out = shutil.copytree(compiled[2], tmp_path / "cache"), tmp_path / "out"
    for trained in cache.glob("done/distill-*"):
        shutil.rmtree(trained)
    wanted = {"options": OPTIONS, **VALUES, "min_ssim": GOAL}
    environment = {**os.environ, "DIFFC_CACHE": str(cache), "WANTED": json.dumps(wanted)}

    def search(kill: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-c", KILLED, str(tiny_model), str(out), kill]
        return subprocess.run(words, env=environment, capture_output=True, text=True)

    first = search("yes")
    assert first.returncode == -signal.SIGKILL and first.stdout, first.stderr
    assert not out.exists()
    again = search("no")
    assert again.returncode == 0, again.stderr
    assert again.stdout and not set(first.stdout.split()) & set(again.stdout.split())
    result = SearchResult.model_validate_json((out / RESULT).read_text("utf-8"))
    # which of the tiny networks is the faster is a matter of chance, their images are not
    able = {one.name for one in result.candidates if one.reaches}
    assert result.candidate(result.chosen).name in able
    whole = {one.name: one.point.figures["ssim"].value for one in searched[1].candidates}
    for one in result.candidates:
        ssim = one.point.figures["ssim"].value
        assert whole.get(one.name, ssim) == pytest.approx(ssim, abs=1e-6)
