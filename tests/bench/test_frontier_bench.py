"""The benchmark of loops: a small run to its end, going on after a stop, and what it says."""

from __future__ import annotations

import json
import re
import sys

import numpy as np
import pytest

from bench import distance
from bench.frontier import __main__ as frontier
from bench.frontier import results


def write_data(path):
    random = np.random.default_rng(0)
    sets = {}
    for split in ("train", "test"):
        sets[split] = random.integers(0, 256, (64, 16, 16, 1), np.uint8)
        sets[f"{split}_labels"] = np.arange(64) % 4
    np.savez(path, **sets)
    return path


def row(model: str, loop: str, cost: float, frechet: float, se: float = 0.5) -> dict:
    return {"model": model, "loop": loop, "cost": cost, "frechet": {"value": frechet, "se": se}}


ROWS = [
    row("dense", "ddim:50", 50, 10),
    row("dense", "dpm++:8", 8, 9),
    row("dense", "dpm++:4", 4, 20),
    row("compressed", "ddim:50", 30, 12),
    row("compressed", "dpm++:6", 3.6, 13),
    row("compressed", "dpm++:10", 6, 9.3),
]


def test_rivals_are_the_best_dense_rows_of_at_most_the_same_time() -> None:
    said = {one["row"]: one for one in results.at_equal_time(ROWS)}
    assert said["compressed ddim:50"]["dense"] == "dense dpm++:8"
    assert said["compressed ddim:50"]["ahead"] == pytest.approx((9 - 12) / np.hypot(0.5, 0.5))
    assert said["compressed dpm++:10"]["dense"] == "dense dpm++:4"
    assert said["compressed dpm++:10"]["ahead"] > 10
    assert said["compressed dpm++:6"]["dense"] is None, "no dense loop is so short"


def test_where_the_compressed_side_is_behind() -> None:
    assert results.behind(ROWS) == [(8, 12)], "before 3.6 no side has a loop"
    distilled = row("dense, distilled", "own:1", 1, 9.2)
    assert results.behind([*ROWS, distilled]) == [(1, 12)]
    ours = row("compressed, distilled", "own:1", 0.6, 9.1)
    assert results.behind([*ROWS, distilled, ours]) == [(8, 12)]
    best = row("compressed, distilled", "own:2", 1.2, 8.9)
    assert results.behind([*ROWS, distilled, ours, best]) == []
    assert results.behind(ROWS[:3]) == [(4, 12)]


@pytest.mark.slow
def test_a_small_run_goes_to_its_end_and_goes_on_after_a_stop(
    compiled, tiny_model, tmp_path, monkeypatch, capsys
) -> None:
    data, out = write_data(tmp_path / "data.npz"), tmp_path / "results" / "frontier"
    given = [str(compiled[0]), "--data", str(data), "--small", "--dense", str(tiny_model)]
    given += ["--work", str(tmp_path / "work"), "--out", str(out)]
    given += ["--also", "dense again", str(tiny_model), "own:3,ddim:4"]
    given += ["--timed", "dense again", "ort-cpu", "fp32"]
    monkeypatch.setattr(sys, "argv", ["frontier", *given])
    frontier.main()
    found = json.loads(out.with_suffix(".json").read_text())
    rows = {(one["model"], one["loop"]): one for one in found["rows"]}
    assert len(rows) == 6 and found["how"]["images"] == 16
    dense, again = rows["dense", "ddim:4"], rows["dense again", "ddim:4"]
    assert dense["cost"] == pytest.approx(4) and dense["ssim"]["mean"] == pytest.approx(1)
    for name in ("frechet", "own-frechet", "own-kernel"):
        assert again[name] == dense[name], "one model and loop have one set of images"
    assert again["ssim"]["mean"] == pytest.approx(1, abs=1e-3)
    assert set(found["ranks"]) == {"own-frechet", "own-kernel"}
    (fast,) = found["faster"]
    assert fast["row"] == "dense again own:3, ort-cpu fp32" and fast["parity"] < 1e-4
    assert all(one["eager_times"] > 0 for one in (fast, *found["rows"]))
    assert "as fast an image as torch eager" in out.with_suffix(".md").read_text()
    assert found["how"]["rounding"]["ssim"] > 0.9
    for picture in (out.with_suffix(".png"), out.with_name("frontier-images.png")):
        assert picture.stat().st_size > 500
    page = out.with_suffix(".md").read_text()
    assert "| compressed | dpm++:2@trailing |" in page and "rank correlation" in page
    capsys.readouterr()
    frontier.main()  # every image is there
    assert not re.search(r": \d+ s$", capsys.readouterr().out, re.MULTILINE)
    after = json.loads(out.with_suffix(".json").read_text())
    assert [one["frechet"] for one in after["rows"]] == [one["frechet"] for one in found["rows"]]
    the_features_are_ranked(after, tmp_path / "results" / "distance.json", monkeypatch)


def the_features_are_ranked(frontier_found, path, monkeypatch) -> None:
    """The study of features over the same images: every candidate has both rank correlations."""
    monkeypatch.setattr(distance, "DRAWS", 2)
    distance.main()
    found = json.loads(path.read_text())
    assert found["real"] == [row["frechet"]["value"] for row in frontier_found["rows"]]
    for label in found["how"]["references"]:
        candidates = found[label]["candidates"]
        assert len(candidates) == (5 * len(distance.DISTANCES) + len(distance.OF_THE_MIDDLE)) * 6
        assert all(-1 <= one["real"] <= 1 for one in candidates)
    assert "| **mid_block** | 0.3 | mean | kernel |" in path.with_suffix(".md").read_text()
