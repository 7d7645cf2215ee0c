"""Engines side by side: the table that the whole compiler is for.

    measure_target   dense against compressed on one target, one result per batch size
    measure_loop     the same for the whole sampling loop
    side_by_side     any engines, ONNX files or output folders, all in turn, against the first

Where a target cannot run here, latency is absent with the reason; memory then is the engine's size
alone. Nothing is estimated.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffc.errors import InputError, NotComparable, RequestError, UnavailableError
from diffc.events import Progress, Work
from diffc.measure.inputs import example_inputs
from diffc.measure.latency import LatencyOptions, Timings, interleaved
from diffc.measure.loop import LoopOptions, measure_loops
from diffc.measure.memory import measure_memory
from diffc.measure.parity import measure_parity
from diffc.measure.results import (
    EngineFigures,
    Memory,
    Parity,
    Row,
    Speedup,
    TargetResult,
    latency_figures,
)
from diffc.targets import target
from diffc.targets.base import BuildOptions, Runner
from diffc.targets.engine import NAME, EngineInfo, read_info

PERCENTILE_RULE = "sorted[max(n - 1 - int((1 - p/100) n), 0)], as trtexec"


@dataclass(frozen=True)
class MeasureOptions:
    """What to measure.

    batch: sizes to time; empty: those that the engines were built for.
    threads: of the engines; None: those they were built with.
    references: the ONNX folders' reference.safetensors, ``dense`` and ``compressed``; parity and
    real inputs need them. memory: whether to measure it (a fresh process per engine and batch).
    """

    batch: tuple[int, ...] = ()
    threads: int | None = None
    latency: LatencyOptions = field(default_factory=LatencyOptions)
    references: Mapping[str, Path] = field(default_factory=dict)
    memory: bool = True
    loop: LoopOptions = field(default_factory=LoopOptions)


def measure_target(
    dense: Path, compressed: Path, options: MeasureOptions
) -> Work[list[TargetResult]]:
    """Measure two engine folders of one target: parity once, times and memory at each batch size.

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
    with loaded(folders, options.threads) as runners:
        # times before parity: the first call must be the engine's first
        timings = []
        for batch in batches:
            timings.append((yield from _timings(runners, batch, options)))
        parities = yield from _parities(runners, options.references)
    results = []
    for batch, timing in zip(batches, timings, strict=True):
        yield Progress(0, None, f"memory, batch {batch}")
        memories = _memories(folders, batch, options.memory)
        results.append(_result(infos, batch, timing, memories, parities, options))
    return results


def why_absent(info: EngineInfo) -> str | None:
    """Why this engine cannot run here, or None when it can."""
    status = target(info.target).status()
    return None if status.runnable else status.reason


@contextmanager
def loaded(folders: Mapping[str, Path], threads: int | None) -> Iterator[dict[str, Runner]]:
    """The engines, loaded together, closed at the end."""
    with ExitStack() as stack:
        runners = {}
        for name, folder in folders.items():
            runners[name] = target(read_info(folder).target).load(folder, threads)
            stack.callback(runners[name].close)
        yield runners


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


def _timings(runners: Mapping[str, Runner], batch: int, options: MeasureOptions) -> Work[Timings]:
    """All runners on the dense model's inputs: the same numbers for each."""
    reference = next(iter(options.references.values()), None)
    calls = {
        name: runner.bind(example_inputs(runner.info, batch, reference)).run
        for name, runner in runners.items()
    }
    return (yield from interleaved(calls, options.latency))


def candidate_timings(
    folders: Mapping[str, Path], batch: int, options: MeasureOptions
) -> Work[Timings]:
    """Load every engine folder, and time them all in turn at one batch size."""
    with loaded(folders, options.threads) as runners:
        return (yield from _timings(runners, batch, options))


def _memories(folders: Mapping[str, Path], batch: int, wanted: bool) -> dict[str, Memory]:
    if wanted:
        return {name: measure_memory(folder, batch) for name, folder in folders.items()}
    return {
        name: Memory(engine_bytes=read_info(folder).engine_bytes)
        for name, folder in folders.items()
    }


def _result(
    infos: Mapping[str, EngineInfo],
    batch: int,
    timings: Timings,
    memories: Mapping[str, Memory],
    parities: Mapping[str, Parity],
    options: MeasureOptions,
) -> TargetResult:
    figures = {
        name: EngineFigures(
            **latency_figures(timings, name, batch),
            memory=memories[name],
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
        details=_details(infos["dense"], timings, options),
    )


def _details(info: EngineInfo, timings: Timings, options: MeasureOptions) -> dict[str, Any]:
    return {
        "threads": options.threads or info.threads,
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
    memories = _memories(folders, options.loop.batch, wanted=False)
    result = _result(infos, options.loop.batch, timings, memories, {}, options)
    scheduler = options.loop.scheduler or infos["dense"].source["scheduler"].get("_class_name")
    extra = {"steps": options.loop.steps, "scheduler": scheduler}
    return result.model_copy(update={"details": {**result.details, **extra}})


@dataclass(frozen=True)
class Candidate:
    """One thing to compare: its label in the table, and its engine folder."""

    label: str
    engine: Path


def candidates(things: Sequence[Path], targets: Sequence[str], scratch: Path,
               build: BuildOptions) -> Work[list[Candidate]]:  # fmt: skip
    """What ``diffc bench A B ...`` compares: engine folders as they are, the engines of output
    folders, and ONNX files or folders built for each of ``targets`` into ``scratch``.

    Raises InputError for a path that is none of these.
    """
    found: list[Candidate] = []
    for index, thing in enumerate(things):
        if (thing / NAME).is_file():
            found.append(Candidate(str(thing), thing))
        elif (thing / "engines").is_dir():
            found += _of_output(thing, targets)
        elif thing.suffix == ".onnx" or (thing / "model.onnx").is_file():
            found += yield from _built(thing, targets, scratch / str(index), build)
        else:
            hint = "give engine folders, .onnx files, ONNX folders or output folders"
            raise InputError(f"{thing} is nothing that can be measured", hint=hint)
    return _distinct(found)


def _distinct(found: Sequence[Candidate]) -> list[Candidate]:
    """The same thing given twice is measured twice, under two labels."""
    seen: dict[str, int] = {}
    made = []
    for one in found:
        seen[one.label] = count = seen.get(one.label, 0) + 1
        label = one.label if count == 1 else f"{one.label} ({count})"
        made.append(Candidate(label, one.engine))
    return made


def _of_output(out: Path, targets: Sequence[str]) -> list[Candidate]:
    engines = sorted((out / "engines").glob(f"*/*/{NAME}"))
    # dense before compressed: the first line is what the others are compared with
    engines.sort(key=lambda path: path.parent.name != "dense")
    kept = [path.parent for path in engines if not targets or path.parts[-3] in targets]
    if not kept:
        raise InputError(f"{out} holds no engines", hint=f"`diffc build {out}` makes them")
    return [Candidate(str(path.relative_to(out.parent)), path) for path in kept]


def _built(
    thing: Path, targets: Sequence[str], scratch: Path, build: BuildOptions
) -> Work[list[Candidate]]:
    found = []
    for name in targets or ("ort-cpu",):
        yield from target(name).build(thing, build, scratch / name)
        found.append(Candidate(f"{thing} ({name})", scratch / name))
    return found


def side_by_side(
    things: Sequence[Path], targets: Sequence[str], options: MeasureOptions
) -> Work[list[Row]]:
    """Time everything in turn, at each batch size; speed-up is over the first that runs here.

    A candidate that cannot run here keeps its line, with the reason.
    """
    with tempfile.TemporaryDirectory() as scratch:
        build = BuildOptions(batch=options.batch or (1,), threads=options.threads)
        found = yield from candidates(things, targets, Path(scratch), build)
        infos = {c.label: read_info(c.engine) for c in found}
        absent = {c.label: reason for c in found if (reason := why_not(c))}
        runnable = {c.label: c.engine for c in found if c.label not in absent}
        rows: list[Row] = []
        with loaded(runnable, options.threads) as runners:
            for batch in options.batch or _common_batches(infos):
                timings = yield from _timings(runners, batch, options)
                yield Progress(0, None, f"memory, batch {batch}")
                memories = _memories({c.label: c.engine for c in found if c.label in runnable},
                                     batch, options.memory)  # fmt: skip
                rows += [_row(label, info, batch, timings, memories, absent)
                         for label, info in infos.items()]  # fmt: skip
        return rows


def why_not(candidate: Candidate) -> str | None:
    """Why a candidate cannot run here: its target, or its own fingerprint."""
    info = read_info(candidate.engine)
    reason = why_absent(info)
    if reason is None:
        try:
            target(info.target).load(candidate.engine).close()
        except (NotComparable, UnavailableError) as error:
            return str(error)
    return reason


def _common_batches(infos: Mapping[str, EngineInfo]) -> tuple[int, ...]:
    """The batch sizes that every engine was built for."""
    common = set.intersection(*(set(info.batches or (1,)) for info in infos.values()))
    if not common:
        raise RequestError("the engines have no batch size in common", hint="give --batch")
    return tuple(sorted(common))


def _row(
    label: str,
    info: EngineInfo,
    batch: int,
    timings: Timings,
    memories: Mapping[str, Memory],
    absent: Mapping[str, str],
) -> Row:
    runs = label not in absent
    figures = EngineFigures(
        **(latency_figures(timings, label, batch) if runs else {}),
        memory=memories[label] if runs else Memory(engine_bytes=info.engine_bytes),
        build_seconds=info.build_seconds,
        precision_found=info.precision_found,
        absent=absent.get(label),
    )
    first = next(iter(timings.samples), None)
    compared = runs and first is not None and label != first
    speedup = Speedup.of(timings.ratio(str(first), label)) if compared else None
    return Row(label=label, target=info.target, batch=batch, figures=figures, speedup=speedup)
