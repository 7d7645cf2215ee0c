"""Students of loops in real processes: a killed one goes on, two share a batch over gloo."""

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
from support import tiny_loops

pytestmark = pytest.mark.slow

LONG = {"steps": 120, "checkpoint_every": 20}


def start(folder: Path, result: Path, rank: int = 0, port: int = 0, **changes) -> subprocess.Popen:
    """A worker; with a port, one of two."""
    tests = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (tests, os.environ.get("PYTHONPATH"))))
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    if port:
        env |= {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)}
        env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, tiny_loops.__file__, str(folder), str(result), json.dumps(changes)]
    return subprocess.Popen(command, env=env)


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    assert start(tmp_path / "a", whole, **LONG).wait(300) == 0
    worker = start(tmp_path / "b", parts, **LONG)
    deadline = time.monotonic() + 300
    while not (tmp_path / "b" / "step-00000040.json").exists():
        assert worker.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    worker.send_signal(signal.SIGKILL)
    assert worker.wait(60) == -signal.SIGKILL and not parts.exists()
    assert start(tmp_path / "b", parts, **LONG).wait(300) == 0
    assert whole.read_bytes() == parts.read_bytes()
    reports = [json.loads(p.with_suffix(".json").read_text()) for p in (whole, parts)]
    assert reports[0]["losses"] == reports[1]["losses"] and reports[1]["resumed_from"] >= 40


def test_two_processes_give_the_single_ones_losses(tmp_path: Path) -> None:
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    assert start(tmp_path / "a", one, steps=8).wait(300) == 0
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    second = two.with_name("second.safetensors")
    workers = [
        start(tmp_path / "b", result, rank, port, steps=8)
        for rank, result in enumerate((two, second))
    ]
    assert [worker.wait(300) for worker in workers] == [0, 0]
    reports = [json.loads(p.with_suffix(".json").read_text()) for p in (one, two)]
    assert [report["processes"] for report in reports] == [1, 2]
    losses = [[loss for _, loss in report["losses"]] for report in reports]
    assert len(losses[0]) == 8 and losses[1] == pytest.approx(losses[0], rel=1e-3)
    ours, theirs = load_file(two), load_file(second)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
