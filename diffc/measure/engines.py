"""Engine folders, opened together and timed in turn: every comparison stands on these functions.

open_engines          engines that must all run here, on pinned cores
open_usable_engines   the engines that can run here, and why each of the others cannot
time_engines          all of them in turn at one batch size, on the same inputs
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from diffc.errors import DamagedEngine, InputError, NotComparable, RequestError, UnavailableError
from diffc.measure.inputs import example_inputs
from diffc.measure.latency import LatencyOptions, Timings, interleaved
from diffc.measure.loop import LoopOptions
from diffc.measure.memory import measure_memory
from diffc.measure.pinning import choose_cores, pin_cores
from diffc.measure.results import MachineNoise, Memory, Speedup
from diffc_export.events import Work
from diffc_export.targets import on_gpu, target
from diffc_export.targets.base import LoadedEngine
from diffc_export.targets.engine import EngineInfo, read_info
from diffc_export.targets.onnx_file import Size
from diffc_runtime import machine
from diffc_runtime.machine import nvml

PERCENTILE_RULE = "sorted[max(n - 1 - int((1 - p/100) n), 0)], as trtexec"


@dataclass(frozen=True)
class MeasureOptions:
    """The figures to measure, and how long.

    Attributes:
        batch: Batch sizes to time; empty: those that the engines were built for.
        threads: CPU threads of the engines; None: as each was built.
        latency: How long to measure.
        references: The ONNX folders' reference.safetensors, ``dense`` and ``compressed``; parity
            and real inputs need them.
        memory: Whether memory is measured, in a fresh process per engine and batch.
        loop: The sampling loop of the compressed engine.
        reference: The dense engine's; None: as ``loop``.
    """

    batch: tuple[int, ...] = ()
    threads: int | None = None
    latency: LatencyOptions = field(default_factory=LatencyOptions)
    references: Mapping[str, Path] = field(default_factory=dict)
    memory: bool = True
    loop: LoopOptions = field(default_factory=LoopOptions)
    reference: LoopOptions | None = None


def why_absent(info: EngineInfo) -> str | None:
    """The reason why this engine cannot run here; None where it can."""
    status = target(info.target).status()
    return None if status.runnable else status.reason


def cores_of(infos: Collection[EngineInfo], threads: int | None) -> tuple[int, ...]:
    """The cores that these engines are pinned to; empty for engines on a GPU."""
    return choose_cores(_most_threads(infos, threads)) if _all_on_cpu(infos) else ()


def _all_on_cpu(infos: Collection[EngineInfo]) -> bool:
    return not any(on_gpu(info.target) for info in infos)


def _most_threads(infos: Collection[EngineInfo], threads: int | None) -> int | None:
    """The threads of the engine that has most; None where one takes every core."""
    counts = [threads or info.threads for info in infos]
    return max((n for n in counts if n), default=None) if all(counts) else None


def threads_of(info: EngineInfo, requested: int | None) -> int | None:
    """The threads that an engine runs on here; None for one on a GPU."""
    return None if on_gpu(info.target) else machine.cpu.threads(requested, info.threads)


@contextmanager
def open_engines(
    folders: Mapping[str, Path], threads: int | None
) -> Iterator[dict[str, LoadedEngine]]:
    """Load the engines together on pinned cores, and close them at the end."""
    with open_usable_engines(folders, threads, strict=True) as (runners, _):
        yield runners


@contextmanager
def open_usable_engines(
    folders: Mapping[str, Path], threads: int | None, *, strict: bool = False
) -> Iterator[tuple[dict[str, LoadedEngine], dict[str, str]]]:
    """Load the engines that can run here, and close them at the end.

    Engines on a processor run on as many cores as they have threads, always the same ones.

    Args:
        folders: Name -> engine folder.
        threads: CPU threads of every engine; None: as each was built.
        strict: Whether an engine that cannot run is an error.

    Yields:
        The loaded engines by name, and for each of the others why it cannot run.

    Raises:
        DamagedEngine: A file of an engine is not what was written.
        NotComparable, UnavailableError, InputError: With ``strict``, an engine cannot run.
    """
    infos = {name: read_info(folder) for name, folder in folders.items()}
    runners: dict[str, LoadedEngine] = {}
    reasons: dict[str, str] = {}
    with ExitStack() as stack:
        if _all_on_cpu(infos.values()):
            stack.enter_context(pin_cores(_most_threads(infos.values(), threads)))
        for name, folder in folders.items():
            absent = None if strict else why_absent(infos[name])
            try:
                if absent is None:
                    runners[name] = target(infos[name].target).load(folder, threads)
                    stack.callback(runners[name].close)
                    continue
            except DamagedEngine:
                raise  # its figures would be of another file
            except (NotComparable, UnavailableError, InputError) as error:
                if strict:
                    raise
                absent = str(error)
            reasons[name] = absent
        yield runners, reasons


def time_engines(
    runners: Mapping[str, LoadedEngine],
    batch: int,
    latency: LatencyOptions,
    reference: Path | None = None,
    size: Size | None = None,
) -> Work[Timings]:
    """Time all engines in turn on the same numbers.

    The first call's time includes binding the inputs, which may compile, allocate and capture.

    Args:
        runners: Name -> engine.
        batch: The batch size.
        latency: How many calls, for how long.
        reference: A reference.safetensors, whose inputs are used; None: made-up inputs.
        size: (H, W) of the sample; None: the working size.
    """
    calls, first = {}, {}
    for name, runner in runners.items():
        inputs = example_inputs(runner.info, batch, reference, size=size)
        start = time.perf_counter()
        calls[name] = runner.bind(inputs).run
        calls[name]()
        first[name] = time.perf_counter() - start
    return (yield from interleaved(calls, latency, settle_times(runners), first))


def settle_times(runners: Mapping[str, LoadedEngine]) -> dict[str, float]:
    """Engine -> the seconds that its threads spin after a call, where they do."""
    spins = {name: float(getattr(runner, "settle", 0.0)) for name, runner in runners.items()}
    return {name: seconds for name, seconds in spins.items() if seconds}


def check_same_inputs(infos: Mapping[str, EngineInfo]) -> None:
    """Refuse engines whose inputs have not the same shapes.

    Names and types may differ between exporters, and float16 and bfloat16 inputs count as equal.

    Raises:
        RequestError: It names two engines that differ.
    """
    first, *others = infos
    for other in others:
        shapes = [sorted(spec.shape for spec in infos[name].inputs) for name in (first, other)]
        if shapes[0] != shapes[1]:
            raise RequestError(
                f"{first} takes {_inputs(infos[first])}; {other} takes {_inputs(infos[other])}: "
                "they do not do the same work",
                hint="compare engines of one model at one resolution",
            )


def _inputs(info: EngineInfo) -> str:
    return ", ".join(f"{s.name} {('batch', *s.shape)}".replace("'", "") for s in info.inputs)


def check_batch(infos: Mapping[str, EngineInfo], batch: int) -> None:
    """Refuse a batch size that an engine was not built for.

    Raises:
        RequestError: It names the first such engine.
    """
    for name, info in infos.items():
        if not serves_batch(info, batch):
            built = ", ".join(map(str, info.batches))
            raise RequestError(
                f"{name} was not built for batch {batch} (it was for {built})",
                hint="give --batch with sizes that all of them serve, or build again with --batch",
            )


def serves_batch(info: EngineInfo, batch: int) -> bool:
    """True for a batch size that the engine takes; an engine without profiles takes any."""
    spans = [next(iter(profile.values())) for profile in info.profiles]
    return not spans or any(span.min[0] <= batch <= span.max[0] for span in spans)


def noise_of(timings: Timings, name: str, infos: Collection[EngineInfo]) -> MachineNoise:
    """The machine's noise during a measurement.

    Args:
        timings: The measurement.
        name: The call whose times are compared with themselves.
        infos: The engines that were timed.
    """
    itself = timings.neighbours(name)
    return MachineNoise(
        against_itself=None if itself is None else Speedup.of(itself),
        steady=timings.steady,
        load=timings.load,
        cores=machine.cpu.cores(),
        gpu_busy=None if _all_on_cpu(infos) else nvml.busy(),
    )


def measure_memories(
    folders: Mapping[str, Path],
    batch: int,
    wanted: bool,
    size: Size | None = None,
    threads: int | None = None,
) -> dict[str, Memory]:
    """Measure each engine's memory in a fresh process.

    Args:
        folders: Name -> engine folder.
        batch: The batch size to run.
        wanted: False gives the size of the engines' files alone.
        size: Of the sample, where the engines serve several; None: the working one.
        threads: CPU threads; None: as each was built.

    Returns:
        Name -> its memory. Where the process fails, the figures are absent with the reason, since
        times that were taken stay.
    """
    by_engine = {}
    for name, folder in folders.items():
        memory = Memory(engine_bytes=read_info(folder).engine_bytes)
        try:
            if wanted:
                memory = measure_memory(folder, batch, size=size, threads=threads)
            by_engine[name] = memory
        except UnavailableError as error:
            by_engine[name] = memory.model_copy(update={"absent": str(error)})
    return by_engine
