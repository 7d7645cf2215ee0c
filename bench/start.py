"""How much processor time short commands take: screens of the demo, and refusals.

    python -m bench.start [--runs 5]     writes bench/results/start.json

Each command runs in fresh processes, as a user starts it, with an empty cache and OUT in an empty
folder. A first run, which is not counted, lets Python write its bytecode. Processor seconds count:
other work on the machine changes them less than the seconds on the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from diffc.measure.environment import read_environment

RESULT = Path(__file__).parent / "results" / "start.json"
PACKAGES = ("diffc", "torch", "diffusers", "transformers", "torch-pruning")
SCREENS = {
    "plan demo": 3.0,
    "plan demo --ratio 0.2,0.3,0.5": 3.0,
    "inspect demo": 3.0,
    "plan demo-text": 3.0,
    "inspect demo-text": 3.0,
    "doctor": 1.5,
}
"""Commands that succeed, and the processor seconds that they may take."""
REFUSALS = (
    "compile demo --ratio 7",
    "compile demo --target nope",
    "compile demo --target ort-cpu --precision fp4",
    "compile demo --importance nope",
    "compile nowhere",
    "compile demo --recipe nowhere.yaml",
    "compile demo --resolution 512x768",
    "compile demo --data {empty}",
    "compile demo --prompts {prompts}",
    "compile demo --ratio 0.999",
    "compile demo --guidance 4",
    "plan demo --fit 0.03MB",
    "bench nowhere",
    "report nowhere",
)
REFUSAL_SECONDS = 2.0


def main() -> None:
    """Time every command a few times and write the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    environment, load = read_environment(), os.getloadavg()[0]
    limits = {**SCREENS, **dict.fromkeys(REFUSALS, REFUSAL_SECONDS)}
    commands = {
        command: {**median_run(command, args.runs, refused=command in REFUSALS), "limit": limit}
        for command, limit in limits.items()
    }
    result = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": environment.cpu,
        "cores": environment.cores,
        "load_before": load,
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "runs": args.runs,
        "commands": commands,
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    for command, row in commands.items():
        sys.stdout.write(
            f"{row['cpu_seconds']:5.2f} s CPU (limit {row['limit']}), "
            f"{row['seconds']:5.2f} s wall: "
            f"diffc {command}\n"
        )


def median_run(command: str, runs: int, *, refused: bool) -> dict:
    """The medians over ``runs`` fresh processes, after one that is not counted."""
    rows = [one_run(command, refused) for _ in range(runs + 1)][1:]
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


def one_run(command: str, refused: bool) -> dict:
    """The figures of one fresh process with an empty cache."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "empty").mkdir()
        (Path(folder) / "prompts.txt").write_text("a coat\n")
        names = {"empty": f"{folder}/empty", "prompts": f"{folder}/prompts.txt"}
        words = command.format(**names).split()
        words += ["--out", f"{folder}/out"] if words[0] == "compile" else []
        wall, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-m", "diffc", *words],
            capture_output=True,
            text=True,
            env={**kept, "DIFFC_CACHE": f"{folder}/cache"},
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = time.perf_counter() - wall
    if (done.returncode != 0) != refused or "Traceback" in done.stderr:
        raise RuntimeError(f"diffc {command}: exit {done.returncode}\n{done.stderr}")
    used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return {"seconds": seconds, "cpu_seconds": used}


if __name__ == "__main__":
    main()
