"""How long the checks before the first stage take: for the demo, and for real configurations.

    python -m bench.preflight MODEL [MODEL ...]     writes bench/results/preflight.json

MODEL is ``demo`` or a folder; a folder of configs alone is checked as ``diffc plan`` does it. Each
model is checked in processes of its own, as the command line starts them, with an empty cache. The
figures are of the whole process from its start, and of its two parts: the imports of modules, and
the rest, which is the checks.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from diffc.measure.environment import read_environment

RESULT = Path(__file__).parent / "results" / "preflight.json"
PACKAGES = ("diffc", "torch", "diffusers", "transformers", "torch-pruning")
CHECK = """
import time
from importlib.machinery import ExtensionFileLoader, SourceFileLoader

importing = {"depth": 0, "wall": 0.0, "cpu": 0.0}
def timed(call):
    def inner(*args):
        importing["depth"] += 1
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            return call(*args)
        finally:
            importing["depth"] -= 1
            if importing["depth"] == 0:
                importing["wall"] += time.perf_counter() - wall
                importing["cpu"] += time.process_time() - cpu
    return inner
for loader in (SourceFileLoader, ExtensionFileLoader):
    loader.create_module = timed(loader.create_module)
    loader.exec_module = timed(loader.exec_module)

import json, resource, sys
from pathlib import Path
from diffc.lean_imports import make_imports_lean
make_imports_lean()  # as the command line does
from diffc.stages.plan import alignment
from diffc.stages.preflight import preflight
from diffc.models.source import find_source
from diffc.prune.planning import check_plan
from diffc.recipe import resolve
model, whole = sys.argv[1], sys.argv[2] == "whole"
source = find_source(model, need_weights=whole)
flags = {"prune": {"ratio": 0.5}, "build": {"target": ["ort-cpu"]}}
recipe = resolve(family=source.class_name, model=source.name, flags=flags)
if whole:
    preflight(source, recipe, Path(sys.argv[3]), "bench")
else:
    check_plan(source, recipe, alignment(recipe))
wall, cpu = time.time() - float(sys.argv[4]), time.process_time()
print(json.dumps({
    "seconds": wall, "cpu_seconds": cpu,
    "imports_seconds": importing["wall"], "imports_cpu_seconds": importing["cpu"],
    "checks_seconds": wall - importing["wall"], "checks_cpu_seconds": cpu - importing["cpu"],
    "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
}))
"""


def main() -> None:
    """Check every model a few times and write the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    environment = read_environment()
    result = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": environment.cpu,
        "cores": environment.cores,
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "runs": args.runs,
        "models": {Path(model).name: median_run(model, args.runs) for model in args.models},
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    for name, row in result["models"].items():
        parts = f"imports {row['imports_cpu_seconds']:.1f}, checks {row['checks_cpu_seconds']:.1f}"
        sys.stdout.write(
            f"{name}: {row['seconds']:.1f} s; CPU {row['cpu_seconds']:.1f} ({parts})\n"
        )


def median_run(model: str, runs: int) -> dict:
    """The medians over ``runs`` fresh processes."""
    has_weights = model == "demo" or any(Path(model).rglob("*.safetensors"))
    rows = [one_run(model, has_weights) for _ in range(runs)]
    medians = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    return {"weights": has_weights, **medians}


def one_run(model: str, has_weights: bool) -> dict:
    """The figures of one fresh process with an empty cache."""
    kind = "whole" if has_weights else "configs"
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "DIFFC_CACHE": f"{folder}/cache"}
        command = [sys.executable, "-c", CHECK, model, kind, f"{folder}/out", str(time.time())]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
