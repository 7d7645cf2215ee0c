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
from pathlib import Path

import diffc
import diffc_export
import diffc_runtime
from diffc.errors import UnavailableError
from diffc.measure.results import Memory
from diffc_export.targets.engine import read_info
from diffc_export.targets.onnx_file import Size
from diffc_runtime.json_types import JsonDict, JsonObject

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

    Args:
        engine: The engine folder.
        batch: The batch size.
        split: Tell weights and activations apart, which takes a second process.
        size: Of the sample, where the engine serves several; None: the working one.
        threads: Of the engine, each with scratch memory of its own; None: as it was built.

    Raises:
        UnavailableError: The process failed; the message has its last line.
    """
    at = () if size is None else ("--size", *map(str, size))
    if threads is not None:
        at = (*at, "--threads", str(threads))
    whole = _probed(engine, batch, *at)
    apart = _probed(engine, batch, *at, "--trim") if split else None
    return from_readings(whole, apart, read_info(engine).engine_bytes)


_START = """\
import sys
sys.path[:] = [place for place in sys.path if place]
import importlib.util, os, runpy
for package in sys.argv.pop(1).split(os.pathsep):
    name = os.path.basename(package)
    spec = importlib.util.spec_from_file_location(
        name, os.path.join(package, "__init__.py"), submodule_search_locations=[package]
    )
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
runpy.run_module("diffc.measure.probe", run_name="__main__", alter_sys=True)
"""
"""The process's script: it runs this very diffc, and nothing of the working directory.

``python -m`` and ``python -c`` put the working directory first on the path, where a folder
``onnxruntime`` or a script ``numpy.py`` of the user's would be imported in the package's place;
Python 3.10 has no ``-P`` against it.
"""


def _probed(engine: Path, batch: int, *flags: str) -> JsonDict:
    modules = (diffc_runtime, diffc_export, diffc)
    packages = os.pathsep.join(str(Path(str(module.__file__)).parent) for module in modules)
    command = [sys.executable, "-c", _START, packages, str(engine.resolve()), "--batch"]
    try:
        done = subprocess.run(
            [*command, str(batch), *flags],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_MOST_SECONDS,
            env=_environment(),
            check=False,
        )
    except subprocess.TimeoutExpired:
        reason = f"it did not end within {_MOST_SECONDS} s"
        raise UnavailableError(f"the memory of {engine} cannot be measured: {reason}") from None
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise UnavailableError(f"the memory of {engine} cannot be measured: {reason}")
    readings = _last_readings(done.stdout)
    if readings is None:
        raise UnavailableError(
            f"the memory of {engine} cannot be measured: its process printed no figures"
        )
    return readings


def _last_readings(printed: str) -> JsonDict | None:
    """The readings among all that the process printed; None where there are none.

    They need not come last: what a library in C has printed lies in C's buffer until the end.
    """
    for line in reversed(printed.splitlines()):
        try:
            readings = json.loads(line)
        except ValueError:
            continue
        if isinstance(readings, dict) and "peak" in readings:
            return readings
    return None


def _environment() -> dict[str, str]:
    """This process's variables, PYTHONPATH without the entries that mean the working directory."""
    variables = dict(os.environ)
    places = variables.pop("PYTHONPATH", "").split(os.pathsep)
    if kept := [place for place in places if place not in ("", ".")]:
        variables["PYTHONPATH"] = os.pathsep.join(kept)
    return variables


def from_readings(whole: JsonObject, apart: JsonObject | None, engine_bytes: int) -> Memory:
    """Return an engine's memory, from what the probe has read in fresh processes.

    Args:
        whole: The probe's readings.
        apart: The readings with ``--trim``; None gives no weights and activations.
        engine_bytes: The size of the engine's files.
    """
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
