"""Real processes: killed ones that are resumed, and two that share a batch over gloo."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from socket import socket

import pytest
import torch
from safetensors.torch import load_file
from support import tiny_training

WORKER = Path(tiny_training.__file__)

pytestmark = pytest.mark.slow


def start(folder: Path, result: Path, rank: int = 0, port: int = 0, **changes) -> subprocess.Popen:
    """A worker; with a port, one of two."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    if port:
        env |= {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)}
        env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, str(WORKER), str(folder), str(result), json.dumps(changes)]
    with result.with_suffix(f".{rank}.txt").open("w") as said:
        return subprocess.Popen(command, env=env, stderr=said)


def start_two(folder: Path, result: Path, **changes) -> list[subprocess.Popen]:
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    results = [result, result.with_name("second.safetensors")]
    return [start(folder, results[rank], rank, port, **changes) for rank in range(2)]


def wait_for(folder: Path, step: int, worker: subprocess.Popen, seconds: float = 300) -> None:
    """Until the checkpoint of ``step`` is there; the worker must still be at work."""
    deadline = time.monotonic() + seconds
    while not (folder / f"step-{step:08d}.json").exists():
        assert worker.poll() is None, "the worker ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)


LONG = {"steps": 200, "checkpoint_every": 20, "batch": 4}


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    assert start(tmp_path / "a", whole, **LONG).wait(300) == 0
    for step in (20, 80):
        worker = start(tmp_path / "b", parts, **LONG)
        wait_for(tmp_path / "b", step, worker)
        worker.send_signal(signal.SIGKILL)
        assert worker.wait(60) == -signal.SIGKILL
    assert not parts.exists()
    assert start(tmp_path / "b", parts, **LONG).wait(300) == 0
    assert whole.read_bytes() == parts.read_bytes()
    reports = [json.loads(p.with_suffix(".json").read_text()) for p in (whole, parts)]
    assert reports[0]["losses"] == reports[1]["losses"]
    assert reports[1]["resumed_from"] >= 80


@pytest.mark.parametrize("what", [{"features": 0.5}, {"output": 0, "features": 1}, {"low_rank": 2}])
def test_two_processes_give_the_single_ones_losses(tmp_path: Path, what) -> None:
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    losses, rank = {"output": 1.0, "features": 0.0}, {"rank": what.get("low_rank", 0)}
    losses |= {name: what[name] for name in losses if name in what}
    changes = {"steps": 12, "losses": losses, "low_rank": rank}
    assert start(tmp_path / "a", one, **changes).wait(300) == 0
    workers = start_two(tmp_path / "b", two, gradient_accumulation=2, **changes)
    assert [worker.wait(300) for worker in workers] == [0, 0]
    reports = [json.loads(p.with_suffix(".json").read_text()) for p in (one, two)]
    assert [report["processes"] for report in reports] == [1, 2]
    losses = [[loss for _, loss in report["losses"]] for report in reports]
    assert len(losses[0]) == 12
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    shared, second = load_file(two), load_file(two.with_name("second.safetensors"))
    assert all(torch.equal(shared[name], second[name]) for name in shared)


def test_when_one_of_two_is_killed_the_other_ends_and_the_run_resumes(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    workers = start_two(tmp_path / "a", whole, **LONG)
    assert [worker.wait(300) for worker in workers] == [0, 0]
    workers = start_two(tmp_path / "b", parts, **LONG)
    wait_for(tmp_path / "b", 40, workers[0])
    workers[1].send_signal(signal.SIGKILL)
    assert workers[0].wait(120) != 0  # it does not wait for ever for the other
    workers = start_two(tmp_path / "b", parts, **LONG)
    assert [worker.wait(300) for worker in workers] == [0, 0]
    assert whole.read_bytes() == parts.read_bytes()


def test_out_of_memory_after_the_trial_is_told_by_every_process(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("TINY_OOM", "1:3")  # the trial's call is the first
    result = tmp_path / "x.safetensors"
    workers = start_two(tmp_path / "a", result)
    assert [worker.wait(300) for worker in workers] == [1, 1]
    said = [(tmp_path / name).read_text() for name in ("x.0.txt", "second.1.txt")]
    assert "UnavailableError: another process of this launch ended" in said[0]
    assert "UnavailableError: out of memory while 2 processes shared a step" in said[1]
