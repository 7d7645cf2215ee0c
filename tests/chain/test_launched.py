"""Several processes, as torchrun starts them, make what one makes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import yaml
from quick import QUICK

TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29541", "-m"]


@pytest.mark.slow
def test_two_processes_make_the_plan_of_one(tiny_model, tmp_path):
    recipe = tmp_path / "quick.yaml"
    recipe.write_text(yaml.safe_dump(QUICK))

    def run(name, launcher):
        command = [
            sys.executable, *launcher, "diffc", "prune", tiny_model, "--recipe", recipe,
            "--ratio", "0.4", "--out", tmp_path / name,
        ]  # fmt: skip
        env = {**os.environ, "DIFFC_CACHE": str(tmp_path / f"cache-{name}"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return json.loads((tmp_path / name / "plan.json").read_text()), done

    one, _ = run("one", ["-m"])
    two, done = run("two", TORCHRUN)
    assert [g["keep"] for g in one["groups"]] == [g["keep"] for g in two["groups"]]
    assert one["compressed"] == two["compressed"]
    assert done.stderr.count("importance") == 1  # one process speaks
    again, done = run("two", TORCHRUN)
    assert again == two and done.stderr.count(" reused\n") == 5  # four stages, and the sum
