"""How long the checks before the first stage take: for the demo, and for real configurations.

    python -m bench.preflight MODEL [MODEL ...]     writes bench/results/preflight.json

MODEL is ``demo`` or a folder; a folder of configs alone is checked as ``diffc plan`` does it. Each
model is checked in processes of its own, with an empty cache: what is counted is the whole process
(imports included) and the checks alone, in wall and processor seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path

import diffusers
import torch

from diffc.measure.environment import read_environment

RESULT = Path(__file__).parent / "results" / "preflight.json"
CHECK = """
import json, resource, sys, time
from pathlib import Path
start, begun = time.perf_counter(), time.process_time()
from diffc.chain.front import alignment
from diffc.chain.preflight import preflight
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
row = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - begun}
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({**row, "peak_rss_bytes": peak}))
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
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "runs": args.runs,
        "models": {Path(model).name: measured(model, args.runs) for model in args.models},
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")


def measured(model: str, runs: int) -> dict:
    """The medians over ``runs`` fresh processes."""
    has_weights = model == "demo" or any(Path(model).rglob("*.safetensors"))
    rows = [one_run(model, has_weights) for _ in range(runs)]
    medians = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    return {"weights": has_weights, **medians}


def one_run(model: str, has_weights: bool) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", CHECK, model, "whole" if has_weights else "configs",
                   f"{folder}/out"]  # fmt: skip
        environment = {**os.environ, "DIFFC_CACHE": f"{folder}/cache"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
