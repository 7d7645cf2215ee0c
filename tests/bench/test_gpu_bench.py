"""bench/gpu: its jobs are done once, resumable and told apart; the whole is rehearsed on a CPU."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.gpu import jobs, pictures
from bench.gpu.networks import NETWORKS
from diffc.models.source import find
from diffc.prune.planning import cost_of

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", list(NETWORKS))
def test_networks_have_their_published_sizes(name, tmp_path):
    network = NETWORKS[name]
    content = {"_class_name": network.class_name, **network.config}
    (tmp_path / "config.json").write_text(json.dumps(content))
    costs = cost_of(find(tmp_path, need_weights=False))
    assert costs.cost(costs.dense).params / 1e6 == pytest.approx(network.parameters, rel=2e-3)


def answering(tmp_path, monkeypatch, script: str) -> jobs.Job:
    """A job whose process runs ``script`` in bench.gpu.work's place."""
    folder = tmp_path / "path" / "bench" / "gpu"
    folder.mkdir(parents=True)
    for package in (folder.parent, folder):
        (package / "__init__.py").touch()
    (folder / "work.py").write_text(script)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    monkeypatch.chdir(tmp_path / "path")
    return jobs.Job("piece", "name", ("what",))


def test_a_job_is_done_once(tmp_path, monkeypatch):
    script = "import sys; open(sys.argv[-1], 'w').write('{\"found\": 1}')"
    job = answering(tmp_path, monkeypatch, script)
    assert not jobs.is_done(tmp_path, job)
    assert jobs.run(job, tmp_path, 60) == "done"
    assert jobs.is_done(tmp_path, job)
    held = json.loads(jobs.result_file(tmp_path, job).read_text())
    assert held["found"] == 1 and held["environment"]["cpu"]


def test_a_job_that_dies_leaves_its_last_lines(tmp_path, monkeypatch):
    job = answering(
        tmp_path, monkeypatch, "import os; print('on the edge', flush=True); os.abort()"
    )
    assert jobs.run(job, tmp_path, 60) == "failed"
    held = json.loads(jobs.result_file(tmp_path, job).read_text())
    assert held["failed"] == "exit status -6" and "on the edge" in held["last_lines"]
    assert jobs.is_done(tmp_path, job) and not jobs.is_done(tmp_path, job, retry=True)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_a_job_out_of_time_is_tried_again_and_leaves_no_process(tmp_path, monkeypatch):
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', SLEEP])".replace(
        "SLEEP", repr(f"open({str(tmp_path / 'pid')!r}, 'w').write(str(__import__('os').getpid()))"
                      "; __import__('time').sleep(600)")
    )  # fmt: skip
    job = answering(tmp_path, monkeypatch, script)
    assert jobs.run(job, tmp_path, 5) == "out of time"
    assert not jobs.is_done(tmp_path, job)
    pid = int((tmp_path / "pid").read_text())
    end = time.monotonic() + 30
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.1)
    assert not alive(pid)


def test_what_cannot_be_done_is_recorded(tmp_path):
    job = jobs.Job("latency", "net-trt", ())
    jobs.skip(job, tmp_path, "no NVIDIA GPU here")
    pictures.draw(tmp_path)
    index = json.loads((tmp_path / "index.json").read_text())
    assert index == {"latency/net-trt": "skipped: no NVIDIA GPU here"}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_whole_runs_small_on_a_cpu(tmp_path):
    """Without torch.compile, which takes minutes of C++ for each network."""
    command = [sys.executable, "-m", "bench.gpu", "--out", str(tmp_path), "--small",
               "--seconds", "1100", "--networks", "cifar", "--targets", "ort-cpu", "trt-rtx",
               "--only", "environment", "latency", "memory"]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=ROOT, env=env, check=True)
    index = json.loads((tmp_path / "index.json").read_text())
    assert not [state for state in index.values() if state.startswith("failed")], index
    assert index["latency/trt-rtx-anyway"] == "skipped: no NVIDIA GPU here"
    held = json.loads((tmp_path / "latency/cifar-fp32-ort-cpu-batch2.json").read_text())
    allocations = ("dense", "latency", "global", "uniform")
    assert set(held["rows"]) == {"torch eager, dense", *(f"ort-cpu, {a}" for a in allocations)}
    assert held["rows"]["torch eager, dense"]["over_torch_eager"]["median"] == 1.0
    ahead = json.loads((tmp_path / "latency/cifar-fp32-trt-rtx-batch2.json").read_text())
    assert set(ahead["absent"]) == {f"trt-rtx, {a}" for a in allocations}
    again = subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True, text=True)
    assert again.stdout == "", "nothing is done twice"
    assert (tmp_path / "latency/cifar-fp32-batch2.png").exists()
    assert (tmp_path / "memory/memory.png").exists()
