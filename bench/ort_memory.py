"""What calls of ONNX Runtime take of memory: by itself, without memory patterns, and in engines.

    python -m bench.ort_memory [--networks cifar]      writes bench/results/ort_memory.json

ONNX Runtime plans one block of memory for all later calls of a shape while it watches the first,
and keeps what that one took. diffc's engines give it back (``FirstCalls``), and those of large
files have no such plan. Memory is what four calls of one row add to a process's own, in a fresh
process for each way: at most, and once they have ended. Times are of all ways in turn, in one
process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from bench import full_size
from bench.own_memory_watcher import own_memory
from diffc.measure.environment import read_environment
from diffc.measure.latency import LatencyOptions, interleaved
from diffc_export.events import drain
from diffc_runtime.libraries.ort import CPU, FirstCalls, open_session, session_options

RESULT = Path(__file__).parent / "results" / "ort_memory.json"
NETWORKS = ("cifar", "dit-six-blocks", "sd15-two-levels", "sd15-two-levels-64")
ITSELF, PLAIN, DIFFC = "itself", "no patterns", "diffc"
WAYS = (ITSELF, PLAIN, DIFFC)
TIMED = LatencyOptions(rounds=20, seconds=10.0, most_seconds=400.0)
_CALLS = 4
_THREADS = 2


def main() -> None:
    """Every way of every network, or the memory of one way in this process."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--child", nargs=2, metavar=("WAY", "FOLDER"))
    args = parser.parse_args()
    if args.child:
        way, folder = args.child
        print(json.dumps(memory_of(way, Path(folder))))
        return
    rows = {}
    for name in args.networks:
        with tempfile.TemporaryDirectory() as folder:
            rows[name] = row_of(name, Path(folder))
        print(name, rows[name], flush=True)
    result = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "weights": "random",
        "calls": _CALLS,
        "threads": _THREADS,
        "networks": rows,
        "environment": read_environment().model_dump(mode="json"),
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")


def row_of(name: str, folder: Path) -> dict[str, Any]:
    """One network's memory and times."""
    full_size.write(name, folder)
    facts = full_size.export(name, folder)
    memory = {}
    for way in WAYS:
        command = [sys.executable, "-m", "bench.ort_memory", "--child", way, str(folder)]
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
        )
        memory[way] = json.loads(done.stdout)
    calls = {way: _timed(call_of(way, folder)) for way in WAYS}
    timings = drain(interleaved(calls, TIMED))
    return {
        "bytes": facts["bytes"],
        "memory": memory,
        "milliseconds": {way: timings.percentiles_ms(way)["p50"] for way in WAYS},
        "over_itself": {way: asdict(timings.ratio(way, ITSELF)) for way in (PLAIN, DIFFC)},
    }


def memory_of(way: str, folder: Path) -> dict[str, int]:
    """Bytes that calls add to this process's own memory: at most, and after the last one."""
    call = call_of(way, folder)
    full_size.return_freed_memory()
    before = own_memory(os.getpid()) or 0
    with full_size.OwnMemory() as memory:
        memory.peak = before
        for _ in range(_CALLS):
            call()
    full_size.return_freed_memory()
    after = own_memory(os.getpid()) or 0
    return {"peak": memory.peak - before, "after": after - before}


def call_of(way: str, folder: Path) -> Callable[[], object]:
    """A call of the network in ``folder``."""
    inputs = load_file(folder / "io.safetensors")
    inputs.pop("output")
    path, first = folder / "fp32" / "model.onnx", FirstCalls()
    options = session_options(_THREADS, path)
    if way != DIFFC:
        options.enable_mem_pattern = way == ITSELF
    session = open_session(path, options, [CPU])
    if way == DIFFC:
        return lambda: first.call(inputs.values(), lambda one: session.run(None, inputs, one))
    return lambda: session.run(None, inputs)


def _timed(call: Callable[[], object]) -> Callable[[], float]:
    def run() -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    return run


if __name__ == "__main__":
    main()
