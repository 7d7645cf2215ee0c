"""One network at one allocation, ready for the targets: cut, saved for torch, exported to ONNX.

    dense     as it is
    latency   half the MACs, widths by measured latency on the GPU's first target that runs here
    global    half the MACs, by importance; random weights have none, so scores are random
              (exponential, seed 0): the widths are uneven as real ones are, and mean nothing else
    uniform   half the MACs, the same share everywhere, unaligned: what pruning without a target is

WORK/NETWORK/ALLOCATION/{model,onnx,PRECISION,plan.json}
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from diffc.models.families import family
from diffc.models.families.examples import example_inputs
from diffc.models.load import load_denoiser
from diffc.models.onnx_export import export_denoiser
from diffc.models.save import save_compressed
from diffc.models.source import Source, find_source
from diffc.prune.allocate import unranked_scores
from diffc.prune.by_latency.device import LatencyDevice
from diffc.prune.by_latency.search import widths_by_latency
from diffc.prune.by_latency.table import lowered, read_times
from diffc.prune.plan import unit_plans
from diffc.prune.planning import Problem, chosen_widths, problem_of
from diffc.prune.surgery import cut
from diffc.recipe import resolve
from diffc_export.events import drain
from diffc_export.targets import target
from diffc_runtime import machine
from diffc_runtime.files import write_text

ALLOCATIONS = ("dense", "latency", "global", "uniform")
RATIO = 0.5
TENSOR_CORES = 8  # what they want of fp16 and bf16 widths
GPU_TARGETS = ("trt", "trt-rtx", "ort-cuda")  # the first that runs here plans by latency
CONVERTED = ".converted"  # written last: the folder is whole


def prepare(folder: Path, allocation: str, work: Path, precision: str, batch: int) -> dict:
    """Make WORK/NETWORK/ALLOCATION from the dense network in ``folder``; what was done.

    batch: the size at which ``latency`` measures. A second precision takes the first one's network.
    """
    place = work / folder.parent.name / allocation
    start = time.perf_counter()
    if (place / "plan.json").exists():
        write_precision(place, precision)
        made = json.loads((place / "plan.json").read_text())
        return {**made, "seconds": time.perf_counter() - start}
    source = find_source(folder)
    bench = latency_bench(work, precision, batch) if allocation == "latency" else None
    align = 1 if allocation == "uniform" else TENSOR_CORES
    problem = problem_of(source, _recipe(source, allocation), None, align)
    widths, why = _widths(problem, allocation, bench)
    costs = problem.costs
    made = {
        "macs": costs.macs(widths),
        "macs_left": costs.macs(widths) / costs.macs(costs.dense),
        "parameters": costs.cost(widths).params,
        "plan_seconds": time.perf_counter() - start,
        "planned_for": precision,
        "by": why,
        "widths": widths.tolist(),
        **({"cost_tables": table_summary(bench)} if bench else {}),
    }
    _write(problem, widths, place, precision)
    write_text(place / "plan.json", json.dumps(made))  # last: a plan says that all is there
    return {**made, "seconds": time.perf_counter() - start}


def table_summary(bench: LatencyDevice) -> dict:
    """What the cost tables hold so far: where they were measured, and per kind of layer how many
    points, and the least, median and greatest milliseconds."""
    kinds: dict[str, list[float]] = {}
    for point, seconds in read_times(bench).items():
        kinds.setdefault(point.split()[0], []).append(1e3 * seconds)
    facts = {key: bench.facts()[key] for key in ("target", "precision", "batch", "device")}
    return {**facts, "kinds": {
        kind: {"points": len(ms), "ms": [min(ms), float(np.median(ms)), max(ms)]}
        for kind, ms in sorted(kinds.items())
    }}  # fmt: skip


def latency_bench(work: Path, precision: str, batch: int) -> LatencyDevice:
    """Where latencies are measured for planning; its tables stay in WORK/tables."""
    name, reason = planning_target()
    if name is None:
        raise SystemExit(reason)
    held = precision if name != "ort-cpu" else "fp32"
    return LatencyDevice(name, held, batch, cache=work / "tables")


def planning_target() -> tuple[str | None, str]:
    """(the target on which widths are planned by latency here, why there is none).

    On a machine with a GPU it is one of the GPU's alone: a plan made by the processor's times is
    another plan, and is kept.
    """
    names = GPU_TARGETS if machine.gpu.gpus() else (*GPU_TARGETS, "ort-cpu")
    statuses = {name: target(name).status() for name in names}
    for name, status in statuses.items():
        if status.buildable and status.runnable:
            return name, ""
    reasons = "; ".join(f"{name}: {status.reason}" for name, status in statuses.items())
    return None, f"widths cannot be planned by latency here: {reasons}"


def write_precision(place: Path, precision: str) -> None:
    """WORK/NETWORK/ALLOCATION/PRECISION, converted once; what a killed call left of it counts as
    none."""
    if precision not in ("fp16", "bf16") or _is_converted(place / precision):
        return
    shutil.rmtree(place / precision, ignore_errors=True)
    lowered(place / "onnx", precision)
    (place / precision / CONVERTED).touch()


def _is_converted(folder: Path) -> bool:
    return (folder / CONVERTED).is_file()


def _recipe(source: Source, allocation: str):
    allocate = allocation if allocation != "dense" else "uniform"
    prune = {"cut": "width", "ratio": RATIO, "ratio_of": "macs", "allocate": allocate}
    return resolve(family=source.class_name, flags={"prune": prune})


def _widths(problem: Problem, allocation: str, bench: LatencyDevice | None):
    if allocation == "dense":
        return problem.costs.dense, None
    if bench is not None:
        with tempfile.TemporaryDirectory() as scratch:
            timed = drain(widths_by_latency(problem, bench, Path(scratch)))
        return timed.widths, timed.why
    if allocation == "global":
        generator = np.random.default_rng(0)
        scores = {g.name: generator.exponential(size=g.size) for g in problem.costs.groups}
        problem = replace(problem, ranked=scores)
    return chosen_widths(problem), None


def _write(problem: Problem, widths, place: Path, precision: str) -> None:
    """The model for torch and the ONNX folders in fp32 and ``precision``."""
    source = problem.source
    found = family(source.class_name)
    specs = problem.specs
    model = load_denoiser(source)
    groups = found.groups(model, example_inputs(specs, source.config))
    plans = unit_plans(groups, unranked_scores(groups), widths, problem.bounds.step.tolist())
    cut(model, groups, {p.name: np.array(p.keep) for p in plans if p.kept < p.size})
    place.mkdir(parents=True, exist_ok=True)
    if (widths < problem.costs.dense).any():
        save_compressed(model, source, place / "model", {})
    else:
        (place / "model.txt").write_text(str(source.folder))
    facts = {"macs": problem.costs.macs(widths)}
    export_denoiser(model, found, specs, place / "onnx", opset=problem.export.opset,
                simplify=problem.export.simplify, facts=facts)  # fmt: skip
    del model
    write_precision(place, precision)


def torch_model(place: Path) -> str:
    """What the torch target loads for this variant."""
    note = place / "model.txt"
    return note.read_text() if note.exists() else str(place / "model")


def onnx_folder(place: Path, precision: str) -> Path:
    """The variant's ONNX folder in a precision."""
    return place / ("onnx" if precision == "fp32" else precision)
