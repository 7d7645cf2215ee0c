"""What a plan by latency loses and saves, with depth and without, before the repair and after it.

    python -m bench.latency_plans [--models demo demo-text] [--cuts width width,depth]
    python -m bench.latency_plans --tables openvino       plans by another target's times
    python -m bench.latency_plans --only latency          on a quiet machine
    python -m bench.latency_plans --models demo cifar sd dit --extra 0.4 --out
                bench/results/latency_plans_untrained.json    bench.peers' networks too

Each model's data and importance are those of `diffc compile MODEL --ratio 0.5`. For each kind of
cut, half of the MACs go by plans that may lose more and more importance for the sake of time, from
none beyond the least that the budget costs (``extra`` 0) to twice that. Each plan is cut and
repaired as the product does it:

    predicted   its time by the tables of single layers, as a share of the dense network's
    lost        its importance, in units of the least
    cut         the squared error of its output to the dense one's, on held-out samples
    repaired    the same after the repair
    held out    the demo's error of the predicted noise on Fashion-MNIST's test images, repaired
    speedup     of its engines, measured on every target; efficiency is that times the share of MACs
                left; saved is the share of the dense time that goes over the share of MACs

cifar, sd and dit (bench/peers/models.py) have random weights, but for a last layer that is fitted.
Errors would say nothing there and are None; they are not repaired. Their importance is that of
low-pass noise in a few passes, so that `lost` is comparable within a model alone.

Rows are written to bench/results/latency_plans.json as they are done. diffc/prune/by_latency/
search.py has what follows from them.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
from collections.abc import Sequence
from datetime import date
from functools import cached_property
from pathlib import Path

from safetensors.numpy import load_file
from torch import nn

import diffc
from bench.held_out import FASHION, HeldOut
from bench.peers.models import MODELS as PEERS
from bench.peers.models import smooth_set, source_of
from diffc.data.clean import CleanSet
from diffc.data.recipe_of_model import recipe_of_model
from diffc.measure.environment import read_environment
from diffc.measure.inputs import example_inputs as engine_inputs
from diffc.measure.latency import LatencyOptions, interleaved
from diffc.models.onnx_export import export_denoiser
from diffc.models.source import find_source
from diffc.prune.by_latency.device import LatencyDevice
from diffc.prune.by_latency.search import plan_by_tables
from diffc.prune.plan import Plan
from diffc.prune.repair.layers import readers
from diffc.prune.repair.run import repair
from diffc.prune.surgery import cut
from diffc.recipe import Recipe
from diffc.stage_inputs import RunShape
from diffc.stages.plan import alignment
from diffc_export.events import drain
from diffc_export.targets import target
from diffc_export.targets.base import BuildOptions
from diffc_export.targets.engine import read_info

RESULT = Path(__file__).parent / "results" / "latency_plans.json"
CUTS = ("width", "width,depth")
EXTRA = (0.0, 0.4, 1.0)
"""What may be lost beyond the least importance, as a share of it."""
TARGETS = ("ort-cpu", "openvino")
RATIO = 0.5
UNTRAINED = tuple(name for name, made in PEERS.items() if made is not None)
ERRORS = ("dense", "cut", "repaired", "repair_processor_seconds", "held_out")
FEW = {"passes": 8, "grid": 4, "curve_images": 4, "branch_rows": 8}
"""Of the ranking of a network that nobody trained."""


class Model:
    """One model: what the product would know of it before it plans."""

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        self.name, self.args = name, args

    @property
    def is_trained(self) -> bool:
        return self.name not in UNTRAINED

    @cached_property
    def source(self):
        if self.is_trained:
            return find_source(self.name)
        return source_of(argparse.Namespace(work=self.args.work, cifar=None), self.name)

    def recipe(self, kind: str) -> Recipe:
        flags = {"prune": {"ratio": RATIO, "cut": kind, "allocate": "latency"}}
        return recipe_of_model(self.source, None, flags)

    @cached_property
    def run(self) -> Path:
        """A run of the product up to its plan, for its data and its importance."""
        out = self.args.work / f"{self.name}-run"
        if not (out / "plan.json").exists():
            options: dict = {"prune": {"cut": "width,depth", "allocate": "global"}}
            model = self.name
            if not self.is_trained:
                data = self.args.work / self.name / "data.safetensors"
                smooth_set(self.denoiser.specs, self.source.config).save(data)
                options |= {"data": {"source": str(data)}}
                options["prune"]["importance"] = FEW
                model = str(self.source.folder)
            diffc.compile(model, ratio=RATIO, target=TARGETS[0], out=out, options=options,
                          stop="plan")  # fmt: skip
        return out

    @cached_property
    def scores(self):
        return load_file(self.run / ".diffc" / "importance.safetensors")

    def scores_of(self, kind: str):
        """What a plan of this kind is given: where depth is not cut, no branch has a score."""
        groups = {group.name for group in self.denoiser.groups()}
        return {n: s for n, s in self.scores.items() if "depth" in kind or n in groups}

    @cached_property
    def clean(self) -> CleanSet:
        return CleanSet.load(self.run / ".diffc" / "clean.safetensors")

    @cached_property
    def denoiser(self):
        return RunShape.of(self.recipe("width")).open(self.source)

    @cached_property
    def held_out(self) -> HeldOut | None:
        return HeldOut(self.denoiser, self.args.fashion) if self.name == "demo" else None

    def plan(self, kind: str, extra: float) -> Plan:
        device = LatencyDevice(self.args.tables, cache=self.args.work / "tables", threads=1)
        recipe, scores = self.recipe(kind), self.scores_of(kind)
        return drain(plan_by_tables(self.source, recipe, scores, {}, alignment(recipe), device,
                                    600.0, extra))  # fmt: skip

    def cut(self, plan: Plan) -> nn.Module:
        model = copy.deepcopy(self.denoiser.model)
        units = [*self.denoiser.groups(), *self.denoiser.family.branches(model)]
        cut(model, units, plan.keep())
        return model


def row(model: Model, kind: str, extra: float) -> dict:
    """One plan, cut and, where somebody trained the network, repaired."""
    plan = model.plan(kind, extra)
    network = model.cut(plan)
    errors = repaired(model, kind, plan, network) if model.is_trained else dict.fromkeys(ERRORS)
    if extra in model.args.engines:
        export(model, name_of(kind, extra, model.args.tables), network)
    return {
        "macs_left": plan.compressed.macs / plan.dense.macs,
        "predicted": plan.why["latency"]["predicted"],
        "left_out": [unit.name for unit in plan.left_out],
        "lost": importance_lost(model, plan),
        **errors,
    }


def repaired(model: Model, kind: str, plan: Plan, network: nn.Module) -> dict:
    """Repair the network in place; the errors on the way, by the names of ERRORS."""
    denoiser, keep = model.denoiser, plan.keep()
    layers = readers(denoiser.model, network, denoiser.groups(), keep)
    recipe, begin = model.recipe(kind), time.process_time()
    rows = recipe.repair.rows
    done = drain(repair(denoiser, network, layers, model.clean, rows=rows, seed=recipe.seed))
    seconds = time.process_time() - begin
    held_out = model.held_out.error(network) if model.held_out else None
    errors = (*map(errors_of, (done.dense, done.cut, done.repaired)), seconds, held_out)
    return dict(zip(ERRORS, errors, strict=True))


def errors_of(errors) -> dict | None:
    return None if errors is None else {"to_dense": errors.to_dense, "to_noise": errors.to_noise}


def importance_lost(model: Model, plan: Plan) -> float:
    """The importance that a plan loses, of what is left out once."""
    gone = [unit.name for unit in plan.left_out]
    inside = [
        unit
        for unit in plan.units
        if any(unit.name != name and unit.name.startswith(f"{name}.") for name in gone)
    ]
    total = 0.0
    for unit in plan.units:
        if unit not in inside:
            score = model.scores[unit.name]
            total += float(score.sum() - score[list(unit.keep)].sum())
    return total


def name_of(kind: str, extra: float, tables: str) -> str:
    """A row's name; of the first target's tables without the target."""
    return f"{kind} {extra:g}" + ("" if tables == TARGETS[0] else f" by {tables}")


def place_of(model: Model, name: str) -> Path:
    """The folder of a network's ONNX file and engines."""
    return model.args.work / model.name / name.replace(" ", "-").replace(",", "-")


def export(model: Model, name: str, network: nn.Module) -> None:
    """The engines of one network on every target."""
    place = place_of(model, name)
    onnx = place / "onnx"
    if not (onnx / "model.json").exists():
        denoiser = model.denoiser
        facts = {"prediction": denoiser.process.prediction,
                 "scheduler": dict(model.source.scheduler)}  # fmt: skip
        specs = RunShape.of(model.recipe("width")).specs(model.source)
        export_denoiser(network, denoiser.family, specs, onnx, facts=facts)
    for one in TARGETS:
        if not (place / one / "engine.json").exists():
            drain(target(one).build(onnx, BuildOptions(threads=1), place / one))


def latencies(model: Model, rows: dict[str, dict], rounds: int) -> None:
    """A call of every engine, batch 1, one thread, all in turn."""
    places = {name: place_of(model, name) for name in ["dense", *rows]}
    for one in TARGETS:
        engines = {n: place / one for n, place in places.items() if (place / one).exists()}
        runners = {n: target(one).load(path, threads=1) for n, path in engines.items()}
        calls = {n: r.bind(engine_inputs(read_info(engines[n]), 1)).run
                 for n, r in runners.items()}  # fmt: skip
        timings = drain(interleaved(calls, LatencyOptions(rounds=rounds, seconds=3.0)))
        for name in engines:
            if name != "dense":
                faster = timings.ratio("dense", name)
                figures = speedup(faster.median, faster.ci95, rows[name]["macs_left"])
                rows[name].setdefault("speedup", {})[one] = figures


def speedup(median: float, ci95: Sequence[float], macs_left: float) -> dict:
    """How many times as fast, and that against the MACs; intervals are those of the first."""
    saved = lambda times: (1 - 1 / times) / (1 - macs_left)  # noqa: E731
    return {
        "median": median, "ci95": ci95,
        "efficiency": median * macs_left, "efficiency_ci95": [one * macs_left for one in ci95],
        "saved": {"median": saved(median), "ci95": [saved(one) for one in ci95]},
    }  # fmt: skip


def table(study: dict) -> str:
    """The rows as Markdown."""
    lines = ["| model | plan | predicted time | lost | cut | repaired | held out | efficiency |",
             "|---|---|--:|--:|--:|--:|--:|--:|"]  # fmt: skip
    for name, rows in study["models"].items():
        least = min((one["lost"] for one in rows.values()), default=0) or 1
        for plan, one in rows.items():
            fast = ", ".join(f"{v['efficiency']:.3f}" for v in one.get("speedup", {}).values())
            held_out = "" if one["held_out"] is None else f"{one['held_out']:.4f}"
            both = (one["cut"], one["repaired"] or one["cut"])
            errors = ["" if error is None else f"{error['to_dense']:.5f}" for error in both]
            cells = (name, plan, f"{one['predicted']:.3f}", f"{one['lost'] / least:.2f}", *errors,
                     held_out, fast)  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """See the top."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="*", default=["demo", "demo-text"],
                        help=f"besides those: {', '.join(UNTRAINED)}, or a folder")  # fmt: skip
    parser.add_argument("--cuts", nargs="*", default=list(CUTS))
    parser.add_argument("--extra", type=float, nargs="*", default=list(EXTRA),
                        help="what plans may lose beyond the least, as a share")  # fmt: skip
    parser.add_argument("--engines", type=float, nargs="*",
                        help="whose engines are built and timed; usual: all")  # fmt: skip
    parser.add_argument("--tables", choices=TARGETS, default=TARGETS[0],
                        help="whose times of single layers the plans go by")  # fmt: skip
    parser.add_argument("--only", choices=["latency"])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--fashion", type=Path, default=FASHION)
    parser.add_argument("--work", type=Path, default=Path("build/latency-plans"))
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    args.work = args.work.resolve()
    args.engines = args.extra if args.engines is None else args.engines
    os.environ["DIFFC_CACHE"] = str((args.work / "cache").resolve())
    study = json.loads(args.out.read_text()) if args.out.exists() else {"models": {}}
    study |= {"date": date.today().isoformat(), "ratio": RATIO,
              "environment": read_environment().model_dump(mode="json")}  # fmt: skip
    for name in args.models:
        model, rows = Model(name, args), study["models"].setdefault(name, {})
        if not args.only and args.engines:
            export(model, "dense", model.denoiser.model)
        for kind, extra in [] if args.only else [(k, e) for k in args.cuts for e in args.extra]:
            called = name_of(kind, extra, args.tables)
            if called not in rows:
                print(time.strftime("%H:%M:%S"), name, called, flush=True)
                rows[called] = row(model, kind, extra)
                args.out.write_text(json.dumps(study, indent=1) + "\n")
        if args.engines:
            latencies(model, rows, args.rounds)
        args.out.write_text(json.dumps(study, indent=1) + "\n")
    print(table(study))


if __name__ == "__main__":
    main()
