"""Several processes, as torchrun starts them, make what one makes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import yaml
from support.quick import QUICK
from support.runs import compile_quickly

from diffc.runner import StageFolder
from diffc.stages import distill
from diffc_export.events import drain

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]


FSDP = {
    "compute_environment": "LOCAL_MACHINE",
    "distributed_type": "FSDP",
    "fsdp_config": {"fsdp_version": 2},
    "num_machines": 1,
    "num_processes": 2,
}


def launch(launcher, *arguments, cache):
    """One command line, which must end well."""
    command = [sys.executable, *launcher, "diffc", *map(str, arguments)]
    env = {**os.environ, "DIFFC_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
def test_two_processes_make_the_plan_of_one(tiny_model, tmp_path):
    recipe = tmp_path / "quick.yaml"
    recipe.write_text(yaml.safe_dump(QUICK))

    def run(name, launcher):
        done = launch(
            launcher, "prune", tiny_model, "--recipe", recipe, "--ratio", "0.4",
            "--out", tmp_path / name, cache=tmp_path / f"cache-{name}",
        )  # fmt: skip
        return json.loads((tmp_path / name / "plan.json").read_text()), done

    one, _ = run("one", ["-m"])
    two, done = run("two", TORCHRUN)
    assert [unit["keep"] for unit in one["units"]] == [unit["keep"] for unit in two["units"]]
    assert one["compressed"] == two["compressed"]
    stages = [line.split()[0] for line in done.stderr.splitlines() if line.startswith("  ")]
    assert stages.count("importance") == 1  # one process speaks
    again, done = run("two", TORCHRUN)
    assert again == two and (done.stderr + done.stdout).count(" reused\n") == 5  # 4, and the sum


@pytest.mark.slow
def test_two_processes_distil_and_end_well(compiled, tmp_path):
    """Rank 0 writes the report after training, and the others wait for it: the group must stand."""
    out, _, cache = compiled
    shutil.copytree(out, tmp_path / "out")
    shutil.copytree(cache, tmp_path / "cache")
    launch(TORCHRUN, "distill", tmp_path / "out", "--distill-steps", "6", cache=tmp_path / "cache")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["distillation"]["steps"] == 6
    assert (tmp_path / "out" / "model" / "pruning.json").is_file()


@pytest.mark.slow
def test_the_other_processes_write_no_model(tiny_model, tmp_path, monkeypatch):
    """Each would fill the disk of the cache with one that nobody reads."""
    real, written = distill.distill, []

    def twice(inputs, folder):
        others = StageFolder(tmp_path / "other", tmp_path / "scratch", folder.logs)
        others.out.mkdir()
        others.scratch.mkdir()
        with monkeypatch.context() as patch:
            patch.setattr(distill, "process_rank", lambda: 1)
            drain(real(inputs, others))
        written.extend(others.out.rglob("*"))
        return (yield from real(inputs, folder))

    monkeypatch.setattr(distill, "distill", twice)
    compile_quickly(tiny_model, tmp_path / "out")
    assert not written and (tmp_path / "out" / "model").is_dir()


@pytest.mark.slow
def test_two_processes_compile_sharded(tiny_model, tmp_path):
    """As accelerate's configuration of FSDP asks; the plan is that of one process."""
    recipe, fsdp = tmp_path / "quick.yaml", tmp_path / "fsdp.yaml"
    recipe.write_text(yaml.safe_dump(QUICK))
    fsdp.write_text(yaml.safe_dump(FSDP))
    accelerate = ["-m", "accelerate.commands.launch", "--config_file", str(fsdp), "-m"]
    given = [tiny_model, "--recipe", recipe, "--ratio", "0.4"]
    launch(accelerate, "compile", *given, "--out", tmp_path / "out", cache=tmp_path / "cache")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["targets"][0]["parity"]["passed"] and report["distillation"]["steps"] == 4
    record = json.loads((tmp_path / "out" / ".diffc" / "distill.json").read_text())
    assert "sharded over 2 processes" in record["result"]["notes"]
    launch(["-m"], "prune", *given, "--out", tmp_path / "one", cache=tmp_path / "cache-one")
    plans = [json.loads((tmp_path / name / "plan.json").read_text()) for name in ("out", "one")]
    keeps = [[unit["keep"] for unit in plan["units"]] for plan in plans]
    assert keeps[0] == keeps[1]
