"""One network on one target: engines of every allocation, timed in turn with torch's own.

The dense network in torch eager is in every run, so that factors over it are of one run. What
cannot be built or run is recorded with its reason, and the others go on.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np

from diffc.errors import DiffcError
from diffc.measure.engines import noise_of, open_usable_engines, time_engines
from diffc.measure.inputs import example_inputs
from diffc.measure.latency import LatencyOptions
from diffc.measure.memory import measure_memory
from diffc.measure.results import Speedup, latency_figures
from diffc.torch_target import VARIANTS
from diffc_export.events import drain
from diffc_export.targets import target
from diffc_export.targets.base import BuildOptions
from diffc_runtime.files import write_text

from .variants import ALLOCATIONS, onnx_folder, torch_model

ANCHOR = "torch eager, dense"
SLOW_VARIANTS = ("compiled",)


def measure(place: Path, name: str, batch: int, precision: str, seconds: float, keep=None) -> dict:
    """Build and time every allocation in ``place`` (WORK/NETWORK) on a target at one batch size.

    keep: is given what there is so far, for a call that runs out of time. What compiles for
    minutes comes last, and is then timed in turn with all the others.
    """
    keep = keep or (lambda _: None)
    about = {"target": name, "batch": batch, "precision": precision}
    built, absent, lacking, timed_rows = {}, {}, set(), {"rows": {}, "noise": None}
    wanted = {ANCHOR: ("torch", "dense", "eager")} | _wanted(name)

    def answer() -> dict:
        return {
            **about, **timed_rows, "absent": dict(absent), "lacking": sorted(lacking),
            "build_seconds": {label: facts["build_seconds"] for label, (_, facts) in built.items()},
            "built_as": {label: facts["built_as"] for label, (_, facts) in built.items()},
        }  # fmt: skip

    for slow in (False, True):
        some = {k: v for k, v in wanted.items() if (v[2] in SLOW_VARIANTS) == slow}
        for label, (where, allocation, variant) in some.items():
            if not (place / allocation / "plan.json").exists():
                absent[label] = f"the {allocation} network was not made"
                lacking.add(result_of(place, precision, allocation))
                continue
            try:
                built[label] = _build(place / allocation, where, variant, batch, precision)
            except DiffcError as error:
                absent[label] = str(error)
            keep(answer())
        if some:
            rows, reasons, noise = _time(built, batch, seconds)
            timed_rows, absent = {"rows": rows, "noise": noise}, absent | reasons
            keep(answer())
    return answer()


def result_of(place: Path, precision: str, allocation: str) -> str:
    """The result, as a path in OUT, of the job that makes an allocation's network."""
    return f"latency/{place.name}-{precision}-{allocation}"


def _wanted(name: str) -> dict[str, tuple[str, str, str]]:
    """label -> (target, allocation, variant)."""
    if name != "torch":
        return {f"{name}, {a}": (name, a, "") for a in ALLOCATIONS}
    return {
        f"torch {variant}, {allocation}": ("torch", allocation, variant)
        for variant in VARIANTS
        for allocation in ("dense", "latency")
    }


def _build(place: Path, name: str, variant: str, batch: int, precision: str):
    """(engine folder, facts); an engine that is there, of the same file and versions, is used
    again."""
    held = "fp32" if name == "ort-cpu" else precision
    engine = place / "engines" / f"{name}{variant and '-' + variant}-{held}-{batch}"
    onnx = onnx_folder(place, "fp32" if name == "torch" else held)
    status, kept = target(name).status(), engine.with_name(f"{engine.name}.facts.json")
    described = json.loads((onnx / "model.json").read_text())
    of = {"onnx": described["sha256"], "versions": dict(status.versions), "device": status.device}
    if kept.exists() and (engine / "engine.json").exists():
        known = json.loads(kept.read_text())
        if known["of"] == of:
            return engine, known["facts"]
    options = BuildOptions(
        batch=(batch,), precision=held, variant=variant,
        model=torch_model(place) if name == "torch" else None,
    )  # fmt: skip
    start = time.perf_counter()
    info = drain(target(name).build(onnx, options, engine))
    facts = {
        "build_seconds": time.perf_counter() - start,
        "built_as": {"precision_found": info.precision_found, "device": dict(info.device),
                     "engine_bytes": info.engine_bytes, "details": dict(info.details)},
    }  # fmt: skip
    write_text(kept, json.dumps({"of": of, "facts": facts}))
    return engine, facts


def _time(built, batch: int, seconds: float):
    """(rows, reasons, noise): every engine that loads here, in turn."""
    folders = {label: engine for label, (engine, _) in built.items()}
    with open_usable_engines(folders, None) as (runners, reasons):
        first_calls, refused = _first_calls(runners, batch)
        runners = {label: runners[label] for label in first_calls}
        if not runners:
            return {}, {**reasons, **refused}, None
        infos = [runner.info for runner in runners.values()]
        options = LatencyOptions(rounds=20, seconds=seconds, most_seconds=4 * seconds)
        try:
            timings = drain(time_engines(runners, batch, options))
        except DiffcError as error:  # one that fails in the middle: which one is not known
            failed = dict.fromkeys(runners, f"timing ended with: {error}")
            return {}, {**reasons, **refused, **failed}, None
        first = ANCHOR if ANCHOR in runners else next(iter(runners))
        dense = {label: _dense_of(label) for label in runners}
        rows = {
            label: {
                **_plain(latency_figures(timings, label, batch)),
                "first_call_ms": first_calls[label] * 1e3,
                "over_torch_eager": Speedup.of(timings.ratio(first, label)).model_dump(),
                "over_dense": Speedup.of(timings.ratio(dense[label], label)).model_dump()
                if dense[label] in runners
                else None,
            }
            for label in runners
        }
        return rows, {**reasons, **refused}, noise_of(timings, first, infos).model_dump()


def _first_calls(runners, batch: int):
    """Seconds of the first call of those that run; the others' reasons (no compiler, no memory)."""
    seconds, reasons = {}, {}
    for label, runner in runners.items():
        start = time.perf_counter()
        try:
            runner.bind(example_inputs(runner.info, batch)).run()
            seconds[label] = time.perf_counter() - start
        except Exception as error:  # a compiler's or a runtime's: the others still count
            reasons[label] = f"{type(error).__name__}: {error}"[:500]
    return seconds, reasons


def _dense_of(label: str) -> str:
    return f"{label.split(', ')[0]}, dense"


def _plain(figures: dict) -> dict:
    return {k: v.model_dump() if hasattr(v, "model_dump") else v for k, v in figures.items()}


def memory(place: Path, name: str, batch: int, precision: str, keep=None) -> dict:
    """Peak memory of the dense and the ``latency`` engine, each in a fresh process.

    Engines are built by ``measure``; before that there is nothing to do, and nothing is done.
    """
    about = {"target": name, "batch": batch, "precision": precision}
    made_by = f"latency/{place.name}-{precision}-{name}-batch{batch}"
    measured = _ended(place.parents[1] / f"{made_by}.json")
    found: dict = {"lacking": []}
    for allocation in ("dense", "latency"):
        held = "fp32" if name == "ort-cpu" else precision
        variant = "-eager" if name == "torch" else ""
        engine = place / allocation / "engines" / f"{name}{variant}-{held}-{batch}"
        if not engine.exists():
            found[allocation] = {"absent": "no engine was built"}
            if not (place / allocation / "plan.json").exists():
                found["lacking"].append(result_of(place, precision, allocation))
            elif not measured:
                found["lacking"].append(made_by)
            continue
        try:
            found[allocation] = measure_memory(engine, batch).model_dump()
        except DiffcError as error:
            found[allocation] = {"absent": str(error)}
        (keep or (lambda _: None))({**about, **found})
    if "absent" in found["dense"] and "absent" in found["latency"] and not measured:
        found["skipped"] = f"no engine was built yet: {made_by} builds them"
    return {**about, **found}


def _ended(path: Path) -> bool:
    """Whether a job's result is there and will not come again by itself."""
    found = json.loads(path.read_text()) if path.exists() else {"unfinished": ""}
    return not {"unfinished", "skipped"} & set(found)


def open_anyway(place: Path, precision: str) -> dict:
    """What happens when the engine for "8.0 and later" is opened on this GPU, whatever it is.

    The target itself refuses GPUs that TensorRT-RTX does not list; here the runner is asked
    directly, and its own words are recorded.
    """
    from diffc_export.targets.engine import read_info
    from diffc_export.targets.trt_engine import TrtEngine
    from diffc_export.targets.trt_rtx import TARGET

    engine, facts = _build(place, "trt-rtx", "", 1, precision)
    info = read_info(engine)
    said = {"status": TARGET.status().reason, "built_as": facts["built_as"]}
    file = next(engine / name for name in info.files if not name.endswith(".json"))
    try:
        runner = TrtEngine(TARGET.flavour, file, info)
        bound = runner.bind(example_inputs(info, 1))
        times = [bound.run() for _ in range(20)]
        finite = bool(np.isfinite(next(iter(bound.outputs().values()))).all())
        return {**said, "opened": True, "ms": float(np.median(times)) * 1e3, "finite": finite}
    except Exception as error:  # its own words are what is asked for
        return {**said, "opened": False, "error": f"{type(error).__name__}: {error}"[:2000]}
