"""The process whose memory is measured: load an engine, run it, print what it took, as JSON.

    python -m diffc.measure.probe ENGINE_DIR --batch 1

Imports what a server would have: numpy and the engine's runtime; no torch, no pydantic. Resident
memory is read from /proc (VmRSS, VmHWM), since getrusage's peak is inherited from the parent;
the peak is set back between loading and running, so that each has its own.

    --trim   hand what loading freed back to the system before running

A runtime frees much of what it needed to load, and the C library keeps those pages for whatever
comes next. Without --trim the peak is what a server sees, but activations that fit into kept pages
do not show; with it, weights and activations can be told apart.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from diffc_runtime.errors import DiffcError
from diffc_runtime.machine.memory import memory_field, reset_peak

Reading = dict[str, object]


def main() -> None:
    """Print one JSON object: bytes at each step, and the peaks of loading and of running."""
    parser = argparse.ArgumentParser(prog="python -m diffc.measure.probe")
    parser.add_argument("engine", type=Path)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--trim", action="store_true")
    arguments = parser.parse_args()
    size = (arguments.size[0], arguments.size[1]) if arguments.size else None
    readings = probe(
        arguments.engine, arguments.batch, arguments.runs, arguments.trim, size, arguments.threads
    )
    print(json.dumps(readings))


def probe(
    engine: Path,
    batch: int,
    runs: int = 3,
    trim: bool = False,
    size: tuple[int, int] | None = None,
    threads: int | None = None,
) -> Reading:
    """Read this process's memory at each step of an engine's life.

    Args:
        engine: The engine folder.
        batch: The batch size of the calls.
        runs: The number of calls.
        trim: True gives freed memory back to the system after loading, so that the next reading has
            no memory that only loading needed.
        size: (H, W) of the sample; None: the working size.
        threads: Of the engine; None: as it was built.

    Returns:
        Resident bytes of the process; bytes of the device where the engine is on a GPU.
    """
    from diffc.measure.inputs import example_inputs
    from diffc_export.targets import target
    from diffc_export.targets.engine import read_info

    info = read_info(engine)
    runtime = target(info.target)
    import_runtime(info.target)
    used, how = device_meter(info.target)
    inputs = example_inputs(info, batch, size=size)
    at_start, device_start = memory_field("VmRSS"), used()
    runner = runtime.load(engine, threads)
    loading_peak = memory_field("VmHWM")
    if trim:
        give_back_freed()
    loaded, device_loaded = memory_field("VmRSS"), used()
    reset_peak()
    for _ in range(runs):
        runner(inputs)
    after, running_peak, device_run = memory_field("VmRSS"), memory_field("VmHWM"), used()
    return {
        "start": at_start,
        "loaded": loaded,
        "run": after,
        "running_peak": running_peak,
        "peak": max(loading_peak, running_peak),
        "device": [device_start, device_loaded, device_run],
        "device_how": how,
        "allocator": allocator_bytes(runner),
        "torch": int("torch" in sys.modules),
    }


def import_runtime(name: str) -> None:
    """Import the libraries of the target ``name``, so that their code does not count as memory.

    Raises:
        RequestError, UnavailableError: There is no such target, or it cannot be used.
        ImportError: A library is not installed.
    """
    from importlib import import_module

    from diffc_export.targets import target

    chosen = target(name)
    preload = getattr(chosen, "preload", None)
    if preload is not None:
        preload()
    for module in chosen.facts.libraries:
        import_module(module)


def give_back_freed() -> None:
    """Hand pages that were freed back to the system, where the C library can (glibc)."""
    import ctypes

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def device_meter(target: str) -> tuple[Callable[[], int | None], str | None]:
    """Return how to read the device memory in use, for engines of ``target``.

    Returns:
        A function that reads it, and its source in words: this process's own by NVML where the
        driver knows it, else all that is in use on the device, which other programs change too.
        Without a GPU the readings and the words are None.
    """
    from diffc_export.targets import on_gpu
    from diffc_runtime.machine import nvml

    if not on_gpu(target):
        return (lambda: None), None
    start_cuda()
    if nvml.process_bytes() is not None:
        return nvml.process_bytes, "NVML, this process"
    return device_used, "cudaMemGetInfo, the whole device"


def start_cuda() -> None:
    """Create this process's CUDA context, so that its hundreds of MB do not count."""
    from diffc_runtime.machine import cuda

    cuda.free_bytes()


def device_used() -> int | None:
    """Bytes in use on the device, by all programs."""
    from diffc_runtime.machine import cuda

    return cuda.used_bytes()


def allocator_bytes(runner: object) -> int | None:
    """The bytes that the runtime's own allocator counts; None where it does not say."""
    ask = getattr(runner, "allocator_bytes", None)
    return None if ask is None else ask()


if __name__ == "__main__":
    try:
        main()
    except DiffcError as error:
        sys.exit(str(error))  # the last line of stderr is the caller's reason
