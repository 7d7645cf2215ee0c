"""The process whose memory is measured: load an engine, run it, print what it took, as JSON.

    python -m diffc.measure.probe ENGINE_DIR --batch 1

Imports what a server would have: numpy and the engine's runtime; no torch, no pydantic. Resident
memory is read from /proc (VmRSS, VmHWM), for getrusage's peak is inherited from the parent process.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path


def main() -> None:
    """Print one JSON object: bytes before, after the runtime, load and run, and the peak."""
    parser = argparse.ArgumentParser(prog="python -m diffc.measure.probe")
    parser.add_argument("engine", type=Path)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    print(json.dumps(probe(arguments.engine, arguments.batch, arguments.runs)))


def probe(engine: Path, batch: int, runs: int) -> dict[str, int | None]:
    """Resident bytes of this process at each step; device bytes where the engine is on a GPU."""
    from diffc.measure.inputs import example_inputs
    from diffc.targets import target
    from diffc.targets.engine import read_info

    info = read_info(engine)
    runtime = target(info.target)
    import_runtime(info.target)
    at_start = memory_field("VmRSS")
    free = _free_device_bytes(info.target)
    inputs = example_inputs(info, batch)
    runner = runtime.load(engine)
    loaded = memory_field("VmRSS")
    for _ in range(runs):
        runner(inputs)
    after = memory_field("VmRSS")
    left = _free_device_bytes(info.target)
    return {
        "start": at_start,
        "loaded": loaded,
        "run": after,
        "peak": memory_field("VmHWM"),
        "device": free - left if free is not None and left is not None else None,
        "torch": int("torch" in sys.modules),
    }


_LIBRARIES = {"ort-cpu": "onnxruntime", "ort-cuda": "onnxruntime", "openvino": "openvino",
              "trt": "tensorrt", "trt-rtx": "tensorrt_rtx", "torch": "torch"}  # fmt: skip


def import_runtime(target: str) -> None:
    """Import the library before the first reading: its code is no engine's memory."""
    from importlib import import_module

    if target in _LIBRARIES:
        import_module(_LIBRARIES[target])


def memory_field(name: str) -> int:
    """VmRSS or VmHWM of this process in bytes, from /proc/self/status; elsewhere by getrusage."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return _getrusage_peak()
    line = next(line for line in lines if line.startswith(name + ":"))
    return int(line.split()[1]) * 1024


def _getrusage_peak() -> int:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _free_device_bytes(target: str) -> int | None:
    if target not in ("trt", "trt-rtx", "ort-cuda"):
        return None
    from diffc.targets import cuda

    return cuda.free_bytes()


if __name__ == "__main__":
    main()
