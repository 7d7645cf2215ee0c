"""`diffc compile demo --ratio 0.5` as README has it: time, memory, speed-up, SSIM; then cached.

    python -m bench.demo
    python -m bench.demo --figures bench/results/demo-avx2.json

Writes bench/results/demo.json, and of the same run its report (bench/results/demo-run.json) and its
pictures (docs/images/demo-grid.png), which README shows; with --figures the figures alone, of
another machine. The run is a fresh process with an empty cache; peak memory is the kernel's own
figure for it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "bench" / "results" / "demo.json"
REPORT, GRID = "demo-run.json", ROOT / "docs" / "images" / "demo-grid.png"
OUT = "OUT-demo"
COMMAND = ["compile", "demo", "--ratio", "0.5", "--out", OUT]
CACHED_RUNS = 5


def main() -> None:
    """Run it once from nothing and a few times cached; write and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--grid", type=Path, default=GRID)
    parser.add_argument("--figures", type=Path, help="write the figures there, and nothing else")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / OUT
        load = os.getloadavg()
        seconds = timed(Path(folder))
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        report = json.loads((out / "report.json").read_text())
        if not args.figures:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(out / "report.json", args.out.with_name(REPORT))
            shutil.copy(out / "samples" / "grid.png", args.grid)
        cached = sorted(timed(Path(folder)) for _ in range(CACHED_RUNS))
    result = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": "diffc " + " ".join(COMMAND),
        "load_before": load,
        "seconds": seconds,
        "peak_memory_bytes": peak,
        "cached_seconds": {"median": cached[len(cached) // 2], "all": cached},
        "macs_left": report["compressed"]["macs"] / report["model"]["macs"],
        "speedup": report["targets"][0]["speedup"],
        "loop_speedup": report["pipeline"][0]["speedup"],
        "quality": report["quality"],
        "stages": {s["name"]: round(s["seconds"], 2) for s in report["stages"]},
        "environment": report["environment"],
    }
    (args.figures or args.out).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k != "environment"}, indent=1))


def timed(folder: Path) -> float:
    """Seconds of one run in a fresh process, in a folder that has its cache."""
    start = time.perf_counter()
    cache = {"DIFFC_CACHE": str(folder / "cache"), "PYTHONPATH": path_of_packages()}
    subprocess.run(
        [sys.executable, "-m", "diffc", *COMMAND],
        check=True, env={**os.environ, **cache}, cwd=folder, capture_output=True,
    )  # fmt: skip
    return time.perf_counter() - start


def path_of_packages() -> str:
    """What a process in another folder needs to find the packages of this clone."""
    given = os.environ.get("PYTHONPATH", "")
    return os.pathsep.join([str(ROOT), str(ROOT / "export"), *([given] if given else [])])


if __name__ == "__main__":
    main()
