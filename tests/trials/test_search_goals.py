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
    assert result.chosen == searched[1].chosen
    peaks = [one.memory_bytes for one in result.candidates]
    assert all(1e7 < peak < 4e9 for peak in peaks)
    with pytest.raises(GoalsMissed) as caught:
        diffc.search(tiny_model, out=tmp_path / "no", max_memory="1MB", **wanted)
    assert "1 MB of memory" in str(caught.value) and "the nearest" in str(caught.value)
    assert caught.value.result.trials == [], "memory is known before any training"


KILLED = """
import diffc, json, os, signal, sys
from diffc.trials.running import GoalsMissed
model, out, kill = sys.argv[1:]
trained = []
def note(event):
    if event.kind == "finished" and event.stage == "distill":
        trained.append(event.stage)
    steps = event.progress.done if event.stage == "distill" and event.progress else 0
    if kill == "yes" and trained and steps >= 2:
        os.kill(os.getpid(), signal.SIGKILL)
try:
    diffc.search(model, out=out, on_event=note, **json.loads(os.environ["WANTED"]))
except GoalsMissed as error:
    ssim = {one.name: one.point.figures["ssim"].value for one in error.result.candidates}
    print(json.dumps({"ssim": ssim, "trained": len(trained)}))
"""


@pytest.mark.slow
def test_a_search_that_is_killed_goes_on_where_it_was(searched, tiny_model, tmp_path):
    """SIGKILL in the second training: the first is not done again, and all figures are the same."""
    _, whole, cache = searched
    wanted = {"options": OPTIONS, **VALUES, "min_ssim": 0.999}
    place = shutil.copytree(cache, tmp_path / "cache")
    for stage in place.glob("*/*distill*"):
        shutil.rmtree(stage) if stage.is_dir() else stage.unlink()
    environment = {**os.environ, "DIFFC_CACHE": str(place), "WANTED": json.dumps(wanted)}

    def search(kill: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-c", KILLED, str(tiny_model), str(tmp_path / "out"), kill]
        return subprocess.run(words, env=environment, capture_output=True, text=True)

    first = search("yes")
    assert first.returncode == -signal.SIGKILL, first.stderr
    assert not (tmp_path / "out").exists()
    done = search("no")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["trained"] == 1
    assert len(answer["ssim"]) == 4, "no point reaches the goal, so all were trained"
    for one in whole.candidates:
        assert answer["ssim"][one.name] == pytest.approx(one.point.figures["ssim"].value, abs=1e-6)
