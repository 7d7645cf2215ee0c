"""A job: one process with a time limit, whose result is a file; done once, found again.

OUT/PIECE/NAME.json holds what the job found, when, how long it took and on what; a job that failed
leaves the same file with ``failed`` and its last lines. One that ran out of time leaves none, and
is tried again by the next run.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from diffc.measure.environment import read_environment
from diffc.stages import atomic_write


@dataclass(frozen=True)
class Job:
    """piece and name: where its result goes. arguments: of ``python -m bench.gpu.work``.
    least: seconds below which it is not worth a start."""

    piece: str
    name: str
    arguments: tuple[str, ...]
    least: float = 5.0


def result_file(out: Path, job: Job) -> Path:
    """Where the job's result is."""
    return out / job.piece / f"{job.name}.json"


def is_done(out: Path, job: Job, *, retry: bool = False) -> bool:
    """Whether it was done; ``retry``: a failure does not count."""
    path = result_file(out, job)
    return path.exists() and not (retry and "failed" in json.loads(path.read_text()))


def run(job: Job, out: Path, seconds: float) -> str:
    """Run it for at most ``seconds``: done, failed or out of time."""
    log = out / "logs" / f"{job.piece}-{job.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    answer = log.with_suffix(".answer")
    answer.unlink(missing_ok=True)
    command = [sys.executable, "-m", "bench.gpu.work", *job.arguments, "--answer", str(answer)]
    start = time.perf_counter()
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
        try:
            code = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
    taken = time.perf_counter() - start
    if code is None:
        return "out of time"
    found = json.loads(answer.read_text()) if answer.exists() else _failure(code, log)
    _write(job, out, found, taken)
    return "failed" if "failed" in found else "done"


def skip(job: Job, out: Path, reason: str) -> None:
    """Record that it cannot be done here, and why."""
    _write(job, out, {"skipped": reason}, 0.0)


def _write(job: Job, out: Path, found: dict, taken: float) -> None:
    path = result_file(out, job)
    path.parent.mkdir(parents=True, exist_ok=True)
    environment = read_environment().model_dump(mode="json")
    about = {
        "piece": job.piece,
        "name": job.name,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(taken, 1),
        "environment": environment,
    }
    atomic_write(path, json.dumps({**about, **found}, indent=1) + "\n")


def _failure(code: int, log: Path) -> dict:
    lines = log.read_text(errors="replace").splitlines()
    return {"failed": f"exit status {code}", "last_lines": lines[-30:]}


def _end(process: subprocess.Popen) -> None:
    """The process and whatever it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
