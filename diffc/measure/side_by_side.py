"""``diffc bench A B ...``: any engines, ONNX files or output folders, all in turn.

Speed-up is over the first engine that runs here. An engine that cannot run here keeps its line,
with the reason; so does an engine whose output is NaN, zero or constant, however fast it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffc.errors import InputError, RequestError
from diffc.follows import check_engine
from diffc.measure.engines import (
    PERCENTILE_RULE,
    MeasureOptions,
    check_batch,
    check_same_inputs,
    cores_of,
    measure_memories,
    noise_of,
    open_usable_engines,
    time_engines,
)
from diffc.measure.environment import read_environment
from diffc.measure.inputs import example_inputs
from diffc.measure.latency import Timings
from diffc.measure.parity import dead_output
from diffc.measure.results import Comparison, EngineFigures, Memory, Row, Speedup, latency_figures
from diffc.output import SIDES
from diffc.recipe import DEFAULT_TARGET
from diffc_export.disks import temporary_folder
from diffc_export.events import Progress, Work
from diffc_export.targets import target
from diffc_export.targets.base import BuildOptions, LoadedEngine
from diffc_export.targets.engine import NAME, EngineInfo, read_info
from diffc_export.targets.onnx_file import REFERENCE, read_onnx


@dataclass(frozen=True)
class Candidate:
    """One thing to compare: its label in the table, and its engine folder."""

    label: str
    engine: Path


def side_by_side(
    things: Sequence[Path], targets: Sequence[str], options: MeasureOptions
) -> Work[Comparison]:
    """Time everything in turn, at each batch size.

    Args:
        things: As ``candidates`` takes them.
        targets: As ``candidates`` takes them.
        options: How to measure.

    Raises:
        RequestError: Inputs have different shapes, or an engine does not serve a batch size.
    """
    with temporary_folder() as scratch:
        sizes = options.batch or (_fixed_batch(things) or 1,)
        build = BuildOptions(batch=sizes, threads=options.threads)
        compared = yield from candidates(things, targets, scratch, build)
        infos = {c.label: read_info(c.engine) for c in compared}
        check_same_inputs(infos)
        batches = options.batch or _common_batches(infos)
        for batch in batches:
            check_batch(infos, batch)
        reference = _reference(things)
        rows: list[Row] = []
        noise = {}
        folders = {c.label: c.engine for c in compared}
        with open_usable_engines(folders, options.threads) as (runners, absent):
            for batch in batches:
                some, timings = yield from _one_batch(
                    runners, infos, absent, batch, options, reference
                )
                rows += some
                if timings is not None:
                    noise[batch] = noise_of(timings, next(iter(runners)), infos.values())
        running = {label: folders[label] for label in runners}
        yield from _add_memory(rows, running, options.memory, options.threads)
    return Comparison(
        rows=rows,
        noise=noise,
        threads=options.threads,
        cores=list(cores_of([infos[label] for label in running], options.threads)),
        percentile_rule=PERCENTILE_RULE,
        environment=read_environment().model_dump(mode="json"),
    )


def _fixed_batch(things: Sequence[Path]) -> int | None:
    """The batch size that the first plain ONNX file with a fixed one was exported at."""
    files = (read_onnx(thing) for thing in things if thing.suffix == ".onnx" and thing.is_file())
    return next((batch for file in files for batch in file.fixed.values()), None)


def candidates(
    things: Sequence[Path], targets: Sequence[str], scratch: Path, build: BuildOptions
) -> Work[list[Candidate]]:
    """The engines to compare.

    Args:
        things: Engine folders, which are taken as they are; output folders, whose engines are
            taken; ONNX files or folders, which are built.
        targets: The targets whose engines of an output folder are taken (all where none is named),
            and that ONNX files are built for (ort-cpu where none is named).
        scratch: Where engines are built.
        build: How they are built.

    Raises:
        InputError: A path is none of these.
    """
    results: list[Candidate] = []
    for index, thing in enumerate(things):
        if (thing / NAME).is_file():
            check_engine(thing)
            results.append(Candidate(str(thing), thing))
        elif (thing / "engines").is_dir():
            results += _of_output(thing, targets)
        elif thing.suffix == ".onnx" or (thing / "model.onnx").is_file():
            results += yield from _build(thing, targets, scratch / str(index), build)
        else:
            what = "is nothing that can be measured" if thing.exists() else "does not exist"
            hint = "give engine folders, .onnx files, ONNX folders or output folders"
            raise InputError(f"{thing} {what}", hint=hint)
    return _distinct(results)


def _distinct(some: Sequence[Candidate]) -> list[Candidate]:
    """The candidates with distinct labels: a thing given twice is measured twice."""
    seen: dict[str, int] = {}
    distinct = []
    for one in some:
        seen[one.label] = count = seen.get(one.label, 0) + 1
        label = one.label if count == 1 else f"{one.label} ({count})"
        distinct.append(Candidate(label, one.engine))
    return distinct


def _of_output(out: Path, targets: Sequence[str]) -> list[Candidate]:
    # dense before compressed: the first line is what the others are compared with. Engines of a
    # pipeline's VAE and text encoders lie beside them, and do other work
    engines = [p for side in SIDES for p in sorted((out / "engines").glob(f"*/{side}/{NAME}"))]
    kept = [path.parent for path in engines if not targets or path.parts[-3] in targets]
    if not kept:
        wanted = f" for {', '.join(targets)}" if targets else ""
        raise InputError(f"{out} holds no engines{wanted}", hint=f"`diffc build {out}` makes them")
    for path in kept:
        check_engine(path)
    return [Candidate(str(path.relative_to(out.parent)), path) for path in kept]


def _build(
    thing: Path, targets: Sequence[str], scratch: Path, build: BuildOptions
) -> Work[list[Candidate]]:
    engines = []
    for name in targets or (DEFAULT_TARGET,):
        yield from target(name).build(thing, build, scratch / name)
        engines.append(Candidate(f"{thing} ({name})", scratch / name))
    return engines


def _reference(things: Sequence[Path]) -> Path | None:
    """Real noisy inputs: those of the first ONNX or output folder that has some."""
    places = [p for thing in things for p in (thing, thing.parent, thing / "onnx" / "dense")]
    return next((p / REFERENCE for p in places if (p / REFERENCE).is_file()), None)


def _common_batches(infos: Mapping[str, EngineInfo]) -> tuple[int, ...]:
    """The batch sizes that every engine was built for."""
    common = set.intersection(*(set(info.batches or (1,)) for info in infos.values()))
    if not common:
        each = "; ".join(f"{label}: {_sizes(info)}" for label, info in infos.items())
        raise RequestError(
            f"no batch size that all engines were built for ({each})",
            hint="give --batch, or build again with --batch",
        )
    return tuple(sorted(common))


def _sizes(info: EngineInfo) -> str:
    return ", ".join(map(str, info.batches)) or "any"


def _one_batch(
    runners: Mapping[str, LoadedEngine],
    infos: Mapping[str, EngineInfo],
    absent: Mapping[str, str],
    batch: int,
    options: MeasureOptions,
    reference: Path | None,
) -> Work[tuple[list[Row], Timings | None]]:
    """Each candidate's line at one batch size, and the times; None where nothing can run."""
    timings, faults = None, dict[str, str]()
    if runners:
        timings = yield from time_engines(runners, batch, options.latency, reference)
        faults = {label: _fault(runner, batch, reference) for label, runner in runners.items()}
    rows = [_row(label, info, batch, timings, absent) for label, info in infos.items()]
    rows = [row.model_copy(update={"fault": faults.get(row.label) or None}) for row in rows]
    return rows, timings


def _fault(runner: LoadedEngine, batch: int, reference: Path | None) -> str:
    """The fault of its first output (NaN, zero, constant), or ''."""
    output = runner(example_inputs(runner.info, batch, reference))[runner.info.outputs[0].name]
    fault = dead_output(output)
    return fault and f"the output {fault}"


def _row(
    label: str,
    info: EngineInfo,
    batch: int,
    timings: Timings | None,
    absent: Mapping[str, str],
) -> Row:
    measured = timings if label not in absent else None
    figures = EngineFigures(
        **(latency_figures(measured, label, batch) if measured else {}),
        memory=Memory(engine_bytes=info.engine_bytes),
        build_seconds=info.build_seconds,
        precision_found=info.precision_found,
        absent=absent.get(label),
    )
    first = next(iter(timings.samples)) if timings else None
    compared = measured is not None and label != first
    speedup = Speedup.of(measured.ratio(str(first), label)) if measured and compared else None
    return Row(label=label, target=info.target, batch=batch, figures=figures, speedup=speedup)


def _add_memory(
    rows: list[Row], running: Mapping[str, Path], wanted: bool, threads: int | None
) -> Work[None]:
    """Measure memory after the times, so that no other process runs beside them."""
    for index, row in enumerate(rows):
        if wanted and row.label in running:
            yield Progress(index, len(rows), f"memory of {row.label}")
            folder = {row.label: running[row.label]}
            memory = measure_memories(folder, row.batch, wanted, threads=threads)[row.label]
            rows[index] = row.model_copy(
                update={"figures": row.figures.model_copy(update={"memory": memory})}
            )
