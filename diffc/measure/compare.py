"""Dense against compressed: the table that the whole compiler is for.

    measure_target   one call, on one target, one result per batch size
    measure_loop     the same for the whole sampling loop

Where a target cannot run here, latency is absent with the reason; memory then is the engine's size
alone. Nothing is estimated.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffc.errors import OutOfMemory, RequestError
from diffc.events import Progress, Work
from diffc.measure.engines import (
    PERCENTILE_RULE,
    MeasureOptions,
    cores_of,
    loaded,
    memories,
    noise_of,
    timed,
    why_absent,
)
from diffc.measure.latency import Timings
from diffc.measure.loop import measure_loops
from diffc.measure.parity import measure_parity
from diffc.measure.results import (
    EngineFigures,
    Memory,
    Parity,
    Speedup,
    TargetResult,
    latency_figures,
)
from diffc.targets.base import Runner
from diffc.targets.engine import EngineInfo, read_info


def measure_target(
    dense: Path, compressed: Path, options: MeasureOptions
) -> Work[list[TargetResult]]:
    """Measure two engine folders of one target: parity once, times and memory at each batch size.

    A batch size that memory does not suffice for is absent, with what was asked for and free.
    Raises RequestError when the folders are of different targets; what parity finds is in the
    result, and the caller decides.
    """
    infos = {"dense": read_info(dense), "compressed": read_info(compressed)}
    folders = {"dense": dense, "compressed": compressed}
    _check_same(infos)
    absent = why_absent(infos["dense"])
    if absent:
        return [_absent_result(infos, batch, absent) for batch in _batches(infos, options)]
    batches = _batches(infos, options)
    reference = next(iter(options.references.values()), None)
    with loaded(folders, options.threads) as runners:
        # times before parity: the first call must be the engine's first
        timings, reasons = {}, {}
        for batch in batches:
            try:
                timings[batch] = yield from timed(runners, batch, options.latency, reference)
            except OutOfMemory as error:  # the other batch sizes still count
                reasons[batch] = str(error)
        parities = yield from _parities(runners, options.references)
    results = []
    for batch in batches:
        if batch in reasons:
            results.append(_absent_result(infos, batch, reasons[batch]))
            continue
        yield Progress(0, None, f"memory, batch {batch}")
        found = memories(folders, batch, options.memory)
        results.append(_result(infos, batch, timings[batch], found, parities, options))
    return results


def _check_same(infos: Mapping[str, EngineInfo]) -> None:
    targets = {info.target for info in infos.values()}
    if len(targets) > 1:
        raise RequestError(
            f"dense and compressed are of different targets: {', '.join(sorted(targets))}",
            hint="`diffc bench A B` compares engines of different targets",
        )


def _batches(infos: Mapping[str, EngineInfo], options: MeasureOptions) -> tuple[int, ...]:
    return options.batch or infos["dense"].batches or (1,)


def _parities(
    runners: Mapping[str, Runner], references: Mapping[str, Path]
) -> Work[dict[str, Parity]]:
    found = {}
    for name, runner in runners.items():
        if name in references:
            yield Progress(0, None, f"parity of {name}")
            found[name] = yield from measure_parity(runner, references[name])
    return found


def _result(
    infos: Mapping[str, EngineInfo],
    batch: int,
    timings: Timings,
    memory: Mapping[str, Memory],
    parities: Mapping[str, Parity],
    options: MeasureOptions,
) -> TargetResult:
    figures = {
        name: EngineFigures(
            **latency_figures(timings, name, batch),
            memory=memory[name],
            build_seconds=info.build_seconds,
            precision_found=info.precision_found,
            parity=parities.get(name),
        )
        for name, info in infos.items()
    }
    speedup = Speedup.of(timings.ratio("dense", "compressed"))
    return TargetResult(
        target=infos["dense"].target,
        precision=infos["dense"].precision_asked,
        batch=batch,
        dense=figures["dense"],
        compressed=figures["compressed"],
        speedup=speedup,
        efficiency=_efficiency(speedup.median, infos),
        parity=_worse(parities),
        noise=noise_of(timings, "dense", infos.values()),
        details=_details(infos, timings, options),
    )


def _details(
    infos: Mapping[str, EngineInfo], timings: Timings, options: MeasureOptions
) -> dict[str, Any]:
    return {
        "threads": options.threads or infos["dense"].threads,
        "pinned_to_cores": list(cores_of(infos.values(), options.threads)),
        "rounds": len(next(iter(timings.samples.values()))),
        "interleaved": True,
        "warmup_seconds": timings.warmup_seconds,
        "steady": timings.steady,
        "seed": timings.seed,
        "percentile_rule": PERCENTILE_RULE,
    }


def _efficiency(speedup: float, infos: Mapping[str, EngineInfo]) -> float | None:
    """Speed-up divided by the factor by which MACs fell; None where MACs are not known."""
    dense, compressed = (infos[name].source.get("macs") for name in ("dense", "compressed"))
    if not dense or not compressed:
        return None
    return speedup / (float(dense) / float(compressed))


def _worse(parities: Mapping[str, Parity]) -> Parity | None:
    """The one that failed, else the one with the larger error; not a number counts as largest."""
    if not parities:
        return None
    infinite = float("inf")
    return max(
        parities.values(),
        key=lambda p: (not p.passed, infinite if p.rel_l2 is None else p.rel_l2),
    )


def _absent_result(infos: Mapping[str, EngineInfo], batch: int, reason: str) -> TargetResult:
    figures = {
        name: EngineFigures(
            memory=Memory(engine_bytes=info.engine_bytes),
            build_seconds=info.build_seconds,
            precision_found=info.precision_found,
            absent=reason,
        )
        for name, info in infos.items()
    }
    return TargetResult(
        target=infos["dense"].target,
        precision=infos["dense"].precision_asked,
        batch=batch,
        dense=figures["dense"],
        compressed=figures["compressed"],
        absent=reason,
    )


def measure_loop(dense: Path, compressed: Path, options: MeasureOptions) -> Work[TargetResult]:
    """Dense against compressed for the whole sampling loop; ``details`` has steps and sampler."""
    folders = {"dense": dense, "compressed": compressed}
    infos = {name: read_info(folder) for name, folder in folders.items()}
    _check_same(infos)
    absent = why_absent(infos["dense"])
    if absent:
        return _absent_result(infos, options.loop.batch, absent)
    with loaded(folders, options.threads) as runners:
        timings = yield from measure_loops(
            runners["dense"], runners["compressed"], options.loop, options.latency
        )
    found = memories(folders, options.loop.batch, wanted=False)
    result = _result(infos, options.loop.batch, timings, found, {}, options)
    scheduler = options.loop.scheduler or infos["dense"].source["scheduler"].get("_class_name")
    extra = {"steps": options.loop.steps, "scheduler": scheduler}
    return result.model_copy(update={"details": {**result.details, **extra}})
