"""What the cut models take: an engine call of each, all in turn."""

from __future__ import annotations

from pathlib import Path

from bench.quality.rows import ROWS
from bench.quality.study import Study
from bench.quality.training import pruned
from diffc.measure.environment import read_environment
from diffc.models.families import family as family_of
from diffc.models.load import load_denoiser
from diffc_export.events import drain


def latencies(study: Study, results: dict) -> None:
    """An engine call of every cut model, all engines in turn, into the rows of ``results``."""
    from diffc.measure.inputs import example_inputs as engine_inputs
    from diffc.measure.latency import LatencyOptions, interleaved
    from diffc_export.targets import target
    from diffc_export.targets.engine import read_info

    engines = {"dense": engine(study, "dense", lambda: load_denoiser(study.source))}
    for row in ROWS:
        if row.name in results["rows"] and row.cut not in engines:
            engines[row.cut] = engine(study, row.cut, lambda row=row: pruned(study, row))
    runners = {n: target(study.args.target).load(p, threads=1) for n, p in engines.items()}
    calls = {
        name: runner.bind(engine_inputs(read_info(engines[name]), 1)).run
        for name, runner in runners.items()
    }
    environment = read_environment()
    timings = drain(interleaved(calls, LatencyOptions(rounds=60, seconds=20.0)))
    results["latency"] = {"target": study.args.target, "batch": 1, "threads": 1,
                          "environment": environment.model_dump(mode="json")}  # fmt: skip
    for name, cut in [("dense", "dense"), *((row.name, row.cut) for row in ROWS)]:
        if name in results["rows"]:
            faster = timings.ratio("dense", cut)
            results["rows"][name]["latency_ms"] = timings.percentiles_ms(cut)["p50"]
            results["rows"][name]["speedup"] = {"median": faster.median, "ci95": faster.ci95}


def engine(study: Study, name: str, load) -> Path:
    """The engine folder of one network; weights do not matter to time."""
    from diffc.models.onnx_export import export_denoiser
    from diffc_export.targets import target
    from diffc_export.targets.base import BuildOptions

    folder = study.work / "engines" / study.args.target / name
    if not (folder / "engine.json").exists():
        family = family_of(study.source.class_name)
        facts = {"prediction": study.process.prediction, "scheduler": dict(study.source.scheduler)}
        onnx = study.work / "onnx" / name
        export_denoiser(load(), family, family.specs(study.source.config), onnx, facts=facts)
        drain(target(study.args.target).build(onnx, BuildOptions(threads=1), folder))
    return folder
