"""How fast ``diffc --help`` answers (median < 0.3 s), and that it imports nothing heavy.

    python -m bench.help          writes bench/results/help.json

The command is the installed one, as a shell starts it. An empty interpreter is timed in turn with
it, so that a reader sees what is Python's own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

RESULT = Path(__file__).parent / "results" / "help.json"
LIMIT = 0.3
HEAVY = ("torch", "diffusers", "transformers", "numpy", "pydantic", "onnx", "onnxruntime", "rich")
IMPORTED = """
import sys
sys.argv = ["diffc", "--help"]
from diffc.cli import main
try: main()
except SystemExit: pass
print(len(sys.modules), ",".join(name for name in {heavy!r} if name in sys.modules), sep=";")
"""


def main() -> None:
    """Time it; write and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=21)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    commands = {"help": command(), "empty interpreter": [sys.executable, "-c", "pass"]}
    for one in commands.values():
        seconds(one)  # files into the system's cache, bytecode written
    load = os.getloadavg()
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(args.runs):
        for name, one in commands.items():
            taken[name].append(seconds(one))
    wall, processor = (
        {name: [pair[place] for pair in pairs] for name, pairs in taken.items()} for place in (0, 1)
    )
    modules, heavy = imported()
    result = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": "diffc --help",
        "load_before": load,
        "limit": LIMIT,
        "median": {name: statistics.median(values) for name, values in wall.items()},
        "processor_median": {name: statistics.median(one) for name, one in processor.items()},
        "seconds": wall,
        "modules": modules,
        "heavy_modules": heavy,
        "python": sys.version.split()[0],
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k != "seconds"}, indent=1))


def command() -> list[str]:
    """The console script beside this interpreter; ``python -m diffc`` where there is none."""
    script = Path(sys.executable).parent / "diffc"
    start = [str(script)] if script.is_file() else [sys.executable, "-m", "diffc"]
    return [*start, "--help"]


def seconds(command: list[str]) -> tuple[float, float]:
    """Wall time and processor time of one fresh process, which may write bytecode."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=kept)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return time.perf_counter() - start, used


def imported() -> tuple[int, list[str]]:
    """How many modules are loaded when the help has been printed, and which of the heavy ones."""
    script = IMPORTED.format(heavy=HEAVY)
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    modules, heavy = done.stdout.splitlines()[-1].split(";")
    return int(modules), [name for name in heavy.split(",") if name]


if __name__ == "__main__":
    main()
