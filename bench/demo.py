"""`diffc compile demo --ratio 0.5` as a user runs it: time, memory, speed-up, SSIM; then cached.

    python -m bench.demo                writes bench/results/demo.json

Each run is a fresh process with an empty cache; peak memory is the kernel's own figure for it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

RESULT = Path(__file__).parent / "results" / "demo.json"
COMMAND = [
    "compile", "demo", "--ratio", "0.5", "--target", "ort-cpu", "--target", "trt-rtx",
    "--gpu", "sm86,sm89,sm120",
]  # fmt: skip
CACHED_RUNS = 5


def main() -> None:
    """Run it once from nothing and a few times cached; write and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        load = os.getloadavg()
        seconds = timed(out, Path(folder) / "cache")
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        cached = sorted(timed(out, Path(folder) / "cache") for _ in range(CACHED_RUNS))
        report = json.loads((out / "report.json").read_text())
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
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k != "environment"}, indent=1))


def timed(out: Path, cache: Path) -> float:
    """Seconds of one run in a fresh process."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "diffc", *COMMAND, "--out", str(out), "--quiet"],
        check=True, env={**os.environ, "DIFFC_CACHE": str(cache)},
    )  # fmt: skip
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
