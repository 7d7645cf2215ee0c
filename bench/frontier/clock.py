"""What each loop takes: whole loops around engines, one image each, all in turn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.frontier.rows import COMPRESSED, DENSE, REFERENCE, Model
from diffc.measure.latency import Call, LatencyOptions, interleaved
from diffc.measure.loop import LoopOptions, TimedLoop
from diffc.models.diffusion import process_from_scheduler, served_settings
from diffc.models.onnx_export import export_denoiser
from diffc_export.events import drain
from diffc_export.targets import target
from diffc_export.targets.base import BuildOptions, LoadedEngine
from diffc_runtime.loop import Loop


def measure(
    models: Sequence[Model], run: Path, work: Path, *, name: str, rounds: int
) -> dict[str, Any]:
    """Row -> milliseconds of an image, and its cost in dense calls with a 95 % interval.

    The cost is the paired ratio of its loop's time to that of the dense reference loop, times that
    loop's steps: what a loop takes beside its calls is in it.
    """
    calls: dict[str, Call] = {}
    for model in models:
        runner = target(name).load(engine(model, run, work, name), threads=None)
        for loop in model.loops:
            calls[model.key(loop)] = timed(runner, model, model.loop(loop))
    unit = reference_row(models)
    options = LatencyOptions(rounds=rounds, seconds=0.0, most_seconds=3600.0, warmup_seconds=20.0)
    timings = drain(interleaved(calls, options))
    steps = Loop.parse(unit.split()[-1]).steps or 1
    costs = {}
    for row in calls:
        ratio = timings.ratio(row, unit)
        costs[row] = {
            "image_ms": timings.percentiles_ms(row)["p50"],
            "cost": ratio.median * steps,
            "cost_ci95": [end * steps for end in ratio.ci95],
            "rounds": ratio.pairs,
        }
    return costs


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
        denoiser, onnx = model.open(), work / "onnx" / model.source.digest[:12]
        process = process_from_scheduler(model.source.scheduler)
        facts = {"prediction": process.prediction, "scheduler": dict(model.source.scheduler)}
        network = denoiser.model.cpu()
        export_denoiser(network, denoiser.family, denoiser.specs, onnx, facts=facts)
        drain(target(name).build(onnx, BuildOptions(), folder))
    return folder
