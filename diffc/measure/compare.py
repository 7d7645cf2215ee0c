"""Dense against compressed: the table that the compiler exists for.

    measure_target   one call, on one target, one result per resolution and batch size
    measure_loop     the same for whole images: the sampling loop, guidance and decoder included

Where a target cannot run here, latency is absent with the reason; memory then is the engine's size
alone. Nothing is estimated.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from diffc.errors import InputError, NotComparable, RequestError, UnavailableError
from diffc.measure.engines import (
    PERCENTILE_RULE,
    MeasureOptions,
    cores_of,
    measure_memories,
    noise_of,
    open_engines,
    threads_of,
    time_engines,
    why_absent,
)
from diffc.measure.inputs import other_than_working
from diffc.measure.latency import Timings
from diffc.measure.loop import LoopOptions, measure_loops
from diffc.measure.parity import parities, worse
from diffc.measure.results import (
    EngineFigures,
    Memory,
    Parity,
    Speedup,
    TargetResult,
    latency_figures,
)
from diffc_export.events import Progress, Work
from diffc_export.targets import target
from diffc_export.targets.base import LoadedEngine
from diffc_export.targets.engine import EngineInfo, read_info
from diffc_export.targets.onnx_file import Size, size_words
from diffc_runtime.errors import BadRequest, UnfitEngine
from diffc_runtime.json_types import JsonDict


def measure_target(
    dense: Path, compressed: Path, options: MeasureOptions
) -> Work[list[TargetResult]]:
    """Measure two engine folders of one target.

    Parity is measured at each resolution that they serve, times and memory at each resolution and
    batch size. A batch that memory does not suffice for, or that the runtime cannot run, is absent
    with the reason. The caller decides what a failed parity means.

    Raises:
        RequestError: The folders are of different targets.
    """
    infos = {"dense": read_info(dense), "compressed": read_info(compressed)}
    folders = {"dense": dense, "compressed": compressed}
    _check_same(infos)
    places = _places(infos, options)
    absent = why_absent(infos["dense"])
    if absent:
        return [_absent_result(infos, place, absent) for place in places]
    reference = next(iter(options.references.values()), None)
    with open_engines(folders, options.threads) as runners:
        # times before parity: the first call must be the engine's first
        timings, reasons = {}, {}
        for place in places:
            try:
                timings[place] = yield from time_engines(
                    runners, place.batch, options.latency, reference, place.size
                )
            except UnavailableError as error:  # memory, a kernel: the others still count
                reasons[place] = str(error)
        parity_by_size = (yield from _parities(runners, options.references)) if timings else {}
    infos = {name: runner.info for name, runner in runners.items()}
    results = []
    for place in places:
        if place in reasons:
            results.append(_absent_result(infos, place, reasons[place]))
            continue
        yield Progress(0, None, f"memory, {place}")
        memory = measure_memories(folders, place.batch, options.memory, place.size, options.threads)
        at = other_than_working(infos["dense"].sizes, place.size)
        parity = {name: each[at] for name, each in parity_by_size.items() if at in each}
        results.append(_result(infos, place, timings[place], memory, parity, options))
    return results


@dataclass(frozen=True)
class _Setting:
    """The batch size and resolution of one result; size is None where the engines serve one."""

    size: Size | None
    batch: int

    def __str__(self) -> str:
        return f"batch {self.batch}" + (f", {size_words(self.size)}" if self.size else "")


def _check_same(infos: Mapping[str, EngineInfo]) -> None:
    targets = {info.target for info in infos.values()}
    if len(targets) > 1:
        raise RequestError(
            f"dense and compressed are of different targets: {', '.join(sorted(targets))}",
            hint="`diffc bench A B` compares engines of different targets",
        )


def _places(infos: Mapping[str, EngineInfo], options: MeasureOptions) -> list[_Setting]:
    """Every batch size at the working resolution, then at each of the others."""
    batches = options.batch or infos["dense"].batches or (1,)
    sizes: tuple[Size | None, ...] = infos["dense"].sizes or (None,)
    return [_Setting(size, batch) for size in sizes for batch in batches]


def _parities(
    runners: Mapping[str, LoadedEngine], references: Mapping[str, Path]
) -> Work[dict[str, dict[Size | None, Parity]]]:
    by_engine = {}
    for name, runner in runners.items():
        if name in references:
            yield Progress(0, None, f"parity of {name}")
            by_engine[name] = yield from parities(runner, references[name])
    return by_engine


def _result(
    infos: Mapping[str, EngineInfo],
    place: _Setting,
    timings: Timings,
    memory: Mapping[str, Memory],
    parity: Mapping[str, Parity],
    options: MeasureOptions,
    *,
    images: bool = False,
) -> TargetResult:
    figures = {
        name: EngineFigures(
            **latency_figures(timings, name, place.batch, images=images),
            memory=memory[name],
            build_seconds=info.build_seconds,
            precision_found=info.precision_found,
            parity=parity.get(name),
        )
        for name, info in infos.items()
    }
    speedup = Speedup.of(timings.ratio("dense", "compressed"))
    elsewhere = other_than_working(infos["dense"].sizes, place.size) is not None
    return TargetResult(
        target=infos["dense"].target,
        precision=infos["dense"].precision_asked,
        batch=place.batch,
        resolution=place.size,
        dense=figures["dense"],
        compressed=figures["compressed"],
        speedup=speedup,
        efficiency=None if elsewhere else _efficiency(speedup.median, infos),
        parity=worse(parity.values()) if parity else None,
        noise=noise_of(timings, "dense", infos.values()),
        details=_details(infos, timings, options),
    )


def _details(
    infos: Mapping[str, EngineInfo], timings: Timings, options: MeasureOptions
) -> JsonDict:
    return {
        "threads": threads_of(infos["dense"], options.threads),
        "interface": infos["dense"].interface,
        "served": infos["dense"].served,
        "pinned_to_cores": list(cores_of(infos.values(), options.threads)),
        "rounds": len(next(iter(timings.samples.values()))),
        "interleaved": True,
        "warmup_seconds": timings.warmup_seconds,
        "steady": timings.steady,
        "seed": timings.seed,
        "percentile_rule": PERCENTILE_RULE,
        **_how_run(infos.values()),
    }


def _how_run(infos: Collection[EngineInfo]) -> JsonDict:
    """The engines' facts about their calls: the clock, whether they are captured, or why not."""
    facts: JsonDict = {}
    if timed_by := next(iter(_stated(infos, "timed_by")), None):
        facts["timed_by"] = timed_by
    if captured := _stated(infos, "captured"):
        facts["captured"] = all(captured)
    if reasons := _stated(infos, "not_captured"):
        facts["not_captured"] = reasons[0]
    return facts


def _stated(infos: Collection[EngineInfo], fact: str) -> list[object]:
    return [info.details[fact] for info in infos if fact in info.details]


def _efficiency(speedup: float, infos: Mapping[str, EngineInfo]) -> float | None:
    """Speed-up divided by the factor by which MACs fell; None where MACs are not known."""
    dense, compressed = (infos[name].source.get("macs") for name in ("dense", "compressed"))
    if not dense or not compressed:
        return None
    return speedup / (float(dense) / float(compressed))


def _absent_result(infos: Mapping[str, EngineInfo], place: _Setting, reason: str) -> TargetResult:
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
        batch=place.batch,
        resolution=place.size,
        dense=figures["dense"],
        compressed=figures["compressed"],
        absent=reason,
    )


def measure_loop(dense: Path, compressed: Path, options: MeasureOptions) -> Work[TargetResult]:
    """Measure dense against compressed for whole images; ``details`` describes both loops.

    Where the loop cannot run, the result is absent with the reason. A decoder that does not load
    is left out, and the result says so.
    """
    folders = {"dense": dense, "compressed": compressed}
    infos = {name: read_info(folder) for name, folder in folders.items()}
    _check_same(infos)
    loop = options.loop
    place = _Setting(None, loop.batch)
    absent = why_absent(infos["dense"]) or loop.absent
    if absent:
        return _absent_result(infos, place, absent)
    with open_engines(folders, options.threads) as runners, ExitStack() as stack:
        decoder, notes = open_decoder(loop, options.threads, stack)
        try:
            sides = {"dense": options.reference or loop, "compressed": loop}
            timings, both = yield from measure_loops(
                runners["dense"], runners["compressed"], sides, options.latency, decoder
            )
        except (UnavailableError, BadRequest, UnfitEngine) as error:
            return _absent_result(infos, place, str(error))
    infos = {name: runner.info for name, runner in runners.items()}
    memory = measure_memories(folders, loop.batch, wanted=False)
    result = _result(infos, place, timings, memory, {}, options, images=True)
    # the decoder is one for both sides; the dense side's mean is of more calls
    facts = {**both["compressed"], "decode_ms": both["dense"]["decode_ms"]}
    facts["reference"] = {name: both["dense"][name] for name in ("sampler", "steps", "guidance")}
    facts["decoded"] = decoder is not None if loop.latent else None
    facts["notes"] = [*loop.notes, *notes]
    return result.model_copy(update={"details": {**result.details, **facts}, "efficiency": None})


def open_decoder(
    loop: LoopOptions, threads: int | None, stack: ExitStack
) -> tuple[LoadedEngine | None, list[str]]:
    """The decoder's engine, closed with ``stack``; None, with a note where it does not load."""
    if loop.decoder is None:
        return None, []
    try:
        runner = target(read_info(loop.decoder).target).load(loop.decoder, threads)
    except (NotComparable, UnavailableError, InputError) as error:
        return None, [f"without decoding: {error}"]
    stack.callback(runner.close)
    return runner, []
