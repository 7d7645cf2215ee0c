"""What the tests of bench/gpu share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench.gpu import __main__ as gpu
from bench.gpu import jobs
from diffc_runtime import machine

GPU = machine.gpu.parse_gpu("NVIDIA H100 PCIe, 9.0, 580.159, 81559, 210, 1755")


def answering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> jobs.Job:
    """A job whose process runs ``script`` in bench.gpu.work's place."""
    folder = tmp_path / "path" / "bench" / "gpu"
    folder.mkdir(parents=True)
    for package in (folder.parent, folder):
        (package / "__init__.py").touch()
    (folder / "work.py").write_text(script)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    monkeypatch.chdir(tmp_path / "path")
    return jobs.Job("piece", "name", ("what",))


def wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *said: str) -> dict[str, str]:
    """Every job of a command line, in order, and why it cannot be done."""
    monkeypatch.setattr(sys, "argv", ["gpu", "--out", str(tmp_path), *said])
    return {f"{j.piece}/{j.name}": reason for j, reason in gpu.jobs(gpu.arguments())}
