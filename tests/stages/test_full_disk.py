"""A run whose disk is full again and again: each time one line, and in the end the same model."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml
from support.command import diffc_in_process as diffc
from support.disks import file_system, remount
from support.quick import QUICK

from diffc.stage_inputs import content_digest

pytestmark = pytest.mark.slow

LOOP = {"steps": 4, "batch": 4, "trajectories": 8, "teacher_steps": 2, "checkpoint_every": 2}
BLOCKS = {"steps": 2, "rows": 8, "batch": 4}
STEP = 400_000
"""Bytes of room that are made after each failure."""


def test_distillation_goes_on_where_the_disk_was_full(tiny_model, tmp_path):
    options = {
        **QUICK,
        "distill": {**QUICK["distill"], "aim": "loop", "loop": LOOP, "block_local": BLOCKS},
        "prune": {**QUICK["prune"], "ratio": 0.4},
        "loops": ["deterministic:1"],
    }
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(options))

    def run(verb, place, *more):
        out, cache = place / "out", place / "cache"
        target = [tiny_model, "--out", out] if verb == "prune" else [out]
        return diffc(verb, *target, "--recipe", recipe, *more, DIFFC_CACHE=str(cache))

    (tmp_path / "whole").mkdir()
    for verb in ("prune", "distill"):
        assert run(verb, tmp_path / "whole").returncode == 0
    with file_system(tmp_path / "disk", "size=24m") as disk:
        assert run("prune", disk).returncode == 0
        before = {name: content_digest(disk / "out" / name) for name in ("plan.json", "pruned")}
        used, failures = shutil.disk_usage(disk).used, []
        for step in range(1, 20):
            remount(disk, f"size={used + step * STEP}")
            ended = run("distill", disk)
            if ended.returncode == 0:
                break
            line = next(one for one in ended.stderr.splitlines() if one.startswith("diffc: "))
            assert ended.returncode == 2 and "No space left on device" in line, ended.stderr
            assert "Traceback" not in ended.stderr and "Error while" not in line
            failures.append(line)
            assert before == {name: content_digest(disk / "out" / name) for name in before}
        assert ended.returncode == 0
        assert any("a checkpoint cannot be written" in line for line in failures)
        assert any(f"cannot write {disk / 'out'}" in line for line in failures)
        report = json.loads((disk / "out" / ".diffc" / "distill-loop.json").read_text())
        assert report["result"]["steps"] == 4
        models = [place / "out" / "model" / "unet" for place in (disk, tmp_path / "whole")]
        assert content_digest(models[0]) == content_digest(models[1])
