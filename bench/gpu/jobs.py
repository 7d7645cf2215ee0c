"""A job: one process with a time limit, whose result is a file; done once, found again.

OUT/PIECE/NAME.json holds what the job found, when, how long it took and on what. Besides, there
may be in it

    failed       why, with the last lines that it said; done all the same, unless ``retry``
    skipped      why it cannot be done here; tried again as soon as there is no reason any more
    unfinished   "out of time"; ``tries`` and ``seconds_given``: how often, and how long at most.
                 Tried again by the next run; what it found so far stays in the file, for a job
                 writes its answer as it goes
    lacking      results that it would have used and that were not there; done again once they are
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
from diffc_runtime.files import write_text

OF_THE_PACKAGES = ("environment", "tests")
"""Pieces that are done again when packages have come or gone: what they skipped may run now."""
TRIES = 2
"""After so many that ran out of time a job gives way to all others."""


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


def is_done(out: Path, job: Job, *, retry: bool = False, reason: str = "") -> bool:
    """Whether there is nothing more to do. retry: a failure does not count; reason: why it cannot
    be done here now, for a skip counts only as long as there is one."""
    found = _read(result_file(out, job))
    if found is None or "unfinished" in found:
        return False
    if "skipped" in found:
        return bool(reason)
    if job.piece in OF_THE_PACKAGES and _packages_of(found) != read_environment().packages:
        return False
    if any(is_whole(out / f"{name}.json") for name in found.get("lacking", [])):
        return False
    return not (retry and "failed" in found)


def _packages_of(found: dict) -> dict:
    return found["environment"].get("packages", {})


def is_whole(path: Path) -> bool:
    """Whether a result is there, and not one of a job that failed, was skipped or goes on."""
    found = _read(path)
    return found is not None and not {"failed", "skipped", "unfinished"} & set(found)


def gives_way(out: Path, job: Job) -> bool:
    """Whether it ran out of time so often that all others come first."""
    return ((_read(result_file(out, job)) or {}).get("tries") or 0) >= TRIES


def run(job: Job, out: Path, seconds: float) -> str:
    """Run it for at most ``seconds``: done, failed or out of time."""
    log = out / "logs" / f"{job.piece}-{job.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    answer = log.with_suffix(".answer")
    answer.unlink(missing_ok=True)
    caches = {"TORCHINDUCTOR_CACHE_DIR": str(out.resolve() / "work" / "inductor")}
    limit = ["--seconds", str(int(seconds)), "--answer", str(answer)]
    command = [sys.executable, "-m", "bench.gpu.work", *job.arguments, *limit]
    start = time.perf_counter()
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, start_new_session=True, env={**caches, **os.environ}
        )
        try:
            code = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
    taken = time.perf_counter() - start
    found = json.loads(answer.read_text()) if answer.exists() else {}
    if code is None or (code == 0 and "unfinished" in found):
        found = _out_of_time(result_file(out, job), found, seconds)
    elif code != 0 or not found:
        left = {key: value for key, value in found.items() if key != "unfinished"}
        found = {**left, **_failure(code, log)}
    _write(job, out, found, taken)
    return next((said for what, said in _SAID.items() if what in found), "done")


_SAID = {"failed": "failed", "unfinished": "out of time", "skipped": "skipped"}
_OF_ONE_CALL = {"piece", "name", "date", "seconds", "environment",
                "failed", "last_lines", "skipped"}  # fmt: skip


def skip(job: Job, out: Path, reason: str) -> None:
    """Record that it cannot be done here, and why."""
    _write(job, out, {"skipped": reason}, 0.0)


def _out_of_time(path: Path, found: dict, seconds: float) -> dict:
    """The partial result, newly ``found`` or from the call before, and how often it was tried."""
    old = _read(path) or {}
    kept = {k: v for k, v in old.items() if k not in _OF_ONE_CALL}
    given = max(int(seconds), old.get("seconds_given", 0))
    again = {"unfinished": "out of time", "tries": old.get("tries", 0) + 1, "seconds_given": given}
    return {**kept, **found, **again}


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
    write_text(path, json.dumps({**about, **found}, indent=1) + "\n")


def _read(path: Path) -> dict | None:
    return json.loads(path.read_text()) if path.exists() else None


def _failure(code: int, log: Path) -> dict:
    lines = log.read_text(errors="replace").splitlines()
    return {"failed": f"exit status {code}", "last_lines": lines[-30:]}


def _end(process: subprocess.Popen) -> None:
    """The process and whatever it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
