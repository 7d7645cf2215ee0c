"""Memory: a fresh process for each engine, so that nothing else is in the figures.

engine_bytes              the engine's files
weights_bytes             growth of resident memory from loading, once what loading freed has been
                          given back: the weights, as the runtime lays them out
activations_bytes         the highest resident memory while running, less that: activations, and the
                          runtime's arenas and scratch
runtime_bytes             growth of resident memory from loading and running it, when all is done;
                          the runtime's own code is not in it
peak_bytes                the highest resident memory of the whole process, interpreter and runtime
                          included
device_bytes              growth of GPU memory over the empty CUDA context, on a GPU target
device_weights_bytes      the same from loading alone; device_activations_bytes: from running
                          (execution context, activations, captured graphs)
allocator_bytes           what the runtime's own allocator counts at its peak, where it says so
device_how                how GPU memory was read
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffc.errors import UnavailableError
from diffc.measure.results import Memory
from diffc.targets.engine import read_info
from diffc.targets.onnx_file import Size

_MOST_SECONDS = 600


def measure_memory(
    engine: Path,
    batch: int,
    *,
    split: bool = True,
    size: Size | None = None,
    threads: int | None = None,
) -> Memory:
    """Load and run ``engine`` at ``batch`` in a fresh process.

    size: of the sample, where the engine serves several; None: the working one. threads: of the
    engine, each with scratch memory of its own; None: those it was built with.
    split: tell weights and activations apart, which takes a second process.
    Raises UnavailableError with the process's last line when it cannot.
    """
    at = () if size is None else ("--size", *map(str, size))
    if threads is not None:
        at = (*at, "--threads", str(threads))
    whole = _probed(engine, batch, *at)
    apart = _probed(engine, batch, *at, "--trim") if split else None
    return from_readings(whole, apart, read_info(engine).engine_bytes)


def _probed(engine: Path, batch: int, *flags: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "diffc.measure.probe", str(engine), "--batch", str(batch)]
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    try:
        done = subprocess.run(
            [*command, *flags],
            capture_output=True,
            text=True,
            timeout=_MOST_SECONDS,
            env={**os.environ, "PYTHONPATH": path},
            check=False,
        )
    except subprocess.TimeoutExpired:
        reason = f"it did not end within {_MOST_SECONDS} s"
        raise UnavailableError(f"the memory of {engine} cannot be measured: {reason}") from None
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise UnavailableError(f"the memory of {engine} cannot be measured: {reason}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def from_readings(
    whole: Mapping[str, Any], apart: Mapping[str, Any] | None, engine_bytes: int
) -> Memory:
    """The probe's readings -> the figures above; apart: with ``--trim``."""
    start, loaded, run = whole["device"]
    return Memory(
        engine_bytes=engine_bytes,
        weights_bytes=None if apart is None else max(apart["loaded"] - apart["start"], 0),
        activations_bytes=(
            None if apart is None else max(apart["running_peak"] - apart["loaded"], 0)
        ),
        runtime_bytes=max(whole["run"] - whole["start"], 0),
        peak_bytes=whole["peak"],
        device_bytes=_grown(start, run),
        device_weights_bytes=_grown(start, loaded),
        device_activations_bytes=_grown(loaded, run),
        allocator_bytes=whole["allocator"],
        device_how=whole["device_how"],
    )


def _grown(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else max(after - before, 0)
