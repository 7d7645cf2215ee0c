"""What each loop takes: whole loops around engines, one image each, all in turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.frontier.rows import COMPRESSED, DENSE, REFERENCE, Model
from diffc.data.clean import CleanSet
from diffc.measure.latency import Call, LatencyOptions, Timings, interleaved
from diffc.measure.loop import LoopOptions, TimedLoop
from diffc.measure.parity import measure_parity
from diffc.measure.reference import write_reference
from diffc.models.diffusion import process_from_scheduler, served_settings
from diffc.models.onnx_export import export_denoiser
from diffc.stage_records import STATE
from diffc.stages.data import CLEAN
from diffc_export.events import drain
from diffc_export.targets import target
from diffc_export.targets.base import BuildOptions, LoadedEngine
from diffc_runtime.loop import Loop

EAGER = "torch eager"


@dataclass(frozen=True)
class Fast:
    """Another engine of a model, whose first loop is timed beside the rows.

    Attributes:
        label: The model's.
        target: What the engine is for.
        precision: What it computes in.
    """

    label: str
    target: str
    precision: str


def measure(
    models: Sequence[Model], run: Path, work: Path, *, name: str, rounds: int,
    fast: Sequence[Fast] = (),
) -> tuple[dict[str, Any], list[dict[str, Any]]]:  # fmt: skip
    """Row -> milliseconds of an image, and its cost in dense calls with a 95 % interval.

    The cost is the paired ratio of its loop's time to that of the dense reference loop, times that
    loop's steps: what a loop takes beside its calls is in it.

    Returns:
        The costs, and a row for each engine of ``fast``, with its parity to torch in float32; an
        engine that fails it is not timed.
    """
    calls, more = dict[str, Call](), dict[str, dict[str, Any]]()
    for model in models:
        runner = target(name).load(engine(model, run, work, name), threads=None)
        for loop in model.loops:
            calls[model.key(loop)] = timed(runner, model, model.loop(loop))
    unit = reference_row(models)
    calls[EAGER] = eager(models, work, Loop.parse(unit.split()[-1]))
    for one in fast:
        model = next(model for model in models if model.label == one.label)
        runner, parity = fast_engine(model, run, work, one)
        key = f"{model.key(model.loops[0])}, {one.target} {one.precision}"
        more[key] = {"row": key, "target": one.target, "precision": one.precision, **parity}
        if not parity["parity_failed"]:
            calls[key] = timed(runner, model, model.loop(model.loops[0]))
    options = LatencyOptions(rounds=rounds, seconds=0.0, most_seconds=3600.0, warmup_seconds=20.0)
    timings = drain(interleaved(calls, options))
    costs = {row: cost(timings, row, unit) for row in calls}
    return costs, [{**one, **costs.get(key, {})} for key, one in more.items()]


def cost(timings: Timings, row: str, unit: str) -> dict[str, Any]:
    """A row's time, its cost in dense calls, and how many times faster than torch eager it is."""
    steps = Loop.parse(unit.split()[-1]).steps or 1
    ratio, over = timings.ratio(row, unit), timings.ratio(EAGER, row)
    return {
        "image_ms": timings.percentiles_ms(row)["p50"],
        "cost": ratio.median * steps,
        "cost_ci95": [end * steps for end in ratio.ci95],
        "eager_times": over.median,
        "eager_times_ci95": list(over.ci95),
        "rounds": ratio.pairs,
    }


def eager(models: Sequence[Model], work: Path, loop: Loop) -> Call:
    """The reference loop of the dense model in torch, as whoever has no engine runs it."""
    dense = next(model for model in models if model.label == DENSE)
    folder = work / "engines" / "torch" / dense.source.digest[:12]
    options = BuildOptions(model=str(dense.source.folder), variant="eager")
    drain(target("torch").build(onnx_of(dense, work), options, folder))
    return timed(target("torch").load(folder, threads=None), dense, loop)


def fast_engine(
    model: Model, run: Path, work: Path, one: Fast
) -> tuple[LoadedEngine, dict[str, Any]]:
    """The engine, and how close it is to torch at noise levels of the run's clean samples."""
    digest = model.source.digest[:12]
    folder = work / "engines" / one.target / f"{digest}-{one.precision}"
    options = BuildOptions(precision=one.precision)
    drain(target(one.target).build(onnx_of(model, work), options, folder))
    runner = target(one.target).load(folder, threads=None)
    reference = work / f"reference-{digest}.safetensors"
    write_reference(reference, model.open(), CleanSet.load(run / STATE / CLEAN), seed=0)
    parity = drain(measure_parity(runner, reference))
    return runner, {
        "parity": parity.rel_l2, "parity_limit": parity.tolerance,
        "parity_failed": None if parity.passed else parity.reason,
    }  # fmt: skip


def reference_row(models: Sequence[Model]) -> str:
    """The dense reference loop; the dense model's first loop where that is not measured."""
    dense = next(model for model in models if model.label == DENSE)
    loop = str(REFERENCE) if str(REFERENCE) in dense.loops else dense.loops[0]
    return dense.key(loop)


def timed(runner: LoadedEngine, model: Model, loop: Loop) -> Call:
    """A call that makes one image by the loop that a server runs."""
    config = {**served_settings(model.source.scheduler)}
    settings = {"scheduler": dict(loop.config(config))}
    options = LoopOptions(steps=loop.steps or 1, scheduler=loop.sampler, settings=settings)
    return TimedLoop(runner, options)


def engine(model: Model, run: Path, work: Path, name: str) -> Path:
    """The engine of an output folder, or one that is built here from the model's files.

    run: the output folder whose dense engine is the dense model's.
    """
    side, folder = (DENSE, run) if model.label == DENSE else (COMPRESSED, model.folder)
    own = folder / "engines" / name / side
    if (own / "engine.json").exists():
        return own
    folder = work / "engines" / name / model.source.digest[:12]
    if not (folder / "engine.json").exists():
        drain(target(name).build(onnx_of(model, work), BuildOptions(), folder))
    return folder


def onnx_of(model: Model, work: Path) -> Path:
    """The model's ONNX folder, exported once."""
    onnx = work / "onnx" / model.source.digest[:12]
    if not (onnx / "model.json").exists():
        denoiser = model.open()
        process = process_from_scheduler(model.source.scheduler)
        facts = {"prediction": process.prediction, "scheduler": dict(model.source.scheduler)}
        network = denoiser.model.cpu()
        export_denoiser(network, denoiser.family, denoiser.specs, onnx, facts=facts)
    return onnx
