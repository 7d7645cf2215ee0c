"""Memory: a fresh process for each engine, so that nothing else is in the figures.

engine_bytes   the engine's files
runtime_bytes  growth of resident memory from loading and running it (weights, activations, the
               runtime's arenas); the runtime's own code is not in it
peak_bytes     the highest resident memory of the whole process, interpreter and runtime included
device_bytes   growth of used GPU memory, on a GPU target
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from diffc.errors import UnavailableError
from diffc.measure.results import Memory
from diffc.targets.engine import read_info

_MOST_SECONDS = 600


def measure_memory(engine: Path, batch: int) -> Memory:
    """Load and run ``engine`` at ``batch`` in a fresh process.

    Raises UnavailableError with the process's last line when it cannot.
    """
    command = [sys.executable, "-m", "diffc.measure.probe", str(engine), "--batch", str(batch)]
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=_MOST_SECONDS,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise UnavailableError(f"the memory of {engine} cannot be measured: {reason}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return Memory(
        engine_bytes=read_info(engine).engine_bytes,
        runtime_bytes=found["run"] - found["start"],
        peak_bytes=found["peak"],
        device_bytes=found["device"],
    )
