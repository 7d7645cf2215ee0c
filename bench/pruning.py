"""The pruning engine's figures: sizes, budgets, planning at scale, latency, quality, importance.

    python -m bench.pruning [--only sizes budget sdxl latency heldout passes] [--seeds 0 1 2 3 4]
                            [--configs ../shared/configs] [--fashion FOLDER]

    sizes     the paper's four rows (Fang et al. 2023, tables 1-4), planned on the meta device
    budget    achieved against asked MACs for ratios 0.2 to 0.7
    sdxl      the real SDXL planned: seconds and peak memory of a fresh process
    latency   CIFAR's UNet at half the MACs on ort-cpu, all engines in turn in one process; and
              --ratio-of latency --ratio 0.5
    heldout   epsilon error on Fashion-MNIST's test images after cutting the demo, no finetuning
              (held_out_cuts.py)
    passes    the default's passes against every timestep of S: rank correlation, seconds

Each section (each seed of the slow ones) is written to bench/results/pruning.json as soon as it is
done; ``--only`` repeats some and keeps the others. A Markdown summary is printed at the end.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from bench.held_out import FASHION
from bench.held_out_cuts import METHODS, Study, heldout
from diffc.measure.environment import read_environment
from diffc.measure.inputs import example_inputs as engine_inputs
from diffc.measure.latency import LatencyOptions, interleaved
from diffc.models.source import Source, find_source
from diffc.prune.by_latency.device import LatencyDevice
from diffc.prune.by_latency.search import EngineTrials, widths_by_latency
from diffc.prune.planning import chosen_widths, make_plan, problem_of
from diffc.recipe import resolve
from diffc_export.events import drain
from diffc_export.targets import target
from diffc_export.targets.engine import read_info

RESULT = Path(__file__).parent / "results" / "pruning.json"
PAPER = {  # name: config, parameters (M) and MACs (G), dense and pruned, as published; rounding
    "CIFAR-10 32": ("ddpm-cifar10-32", (35.7, 6.1), (19.8, 3.4)),
    "CelebA-HQ 64": ("ddpm-celebahq-64", (78.7, 23.9), (43.7, 13.3)),
    "LSUN 256": ("ddpm-lsun-256", (113.7, 248.7), (63.2, 138.8)),
    "LDM-4 ImageNet": ("ldm4-imagenet-256", (400.92, 99.80), (189.43, 52.71)),
}
CLASS_CONDITIONAL = "ldm4-imagenet-256"
RATIOS = [0.2, 0.3, 0.4, 0.5, 0.6, 0.7]


def planned(source: Source, scores=None, *, align: int = 16, **prune):
    recipe = resolve(family=source.class_name, flags={"prune": {"cut": "width", **prune}})
    return make_plan(source, recipe, scores, {}, align)


def _class_conditional(source: Source, work: Path) -> Source:
    """The source as a pipeline without a tokenizer: one class embedding in a text's place."""
    folder = work / CLASS_CONDITIONAL
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "LDMPipeline"}))
    return replace(source, folder=folder)


def config_of(args, name: str) -> Source:
    return find_source(args.configs / name, need_weights=False)


# --- sizes, budget, sdxl --------------------------------------------------------------------------


def sizes(args, found: dict) -> None:
    start = time.perf_counter()
    for name, (config, dense, pruned) in PAPER.items():
        source = config_of(args, config)
        if config == CLASS_CONDITIONAL:
            source = _class_conditional(source, args.work)
        plan = planned(source, ratio=0.3, ratio_of="channels", rounding="paper", align=1)
        got = plan.compressed.params / 1e6, plan.compressed.macs_paper / 1e9
        found[name] = {
            "published": {"dense": dense, "pruned": pruned},
            "dense": [plan.dense.params / 1e6, plan.dense.macs_paper / 1e9],
            "pruned": got,
            "off": [a / b - 1 for a, b in zip(got, pruned, strict=True)],
        }
    found["seconds"] = time.perf_counter() - start


def budget(args, found: dict) -> None:
    for name, source in (
        ("demo", find_source("demo")),
        ("cifar", config_of(args, "ddpm-cifar10-32")),
    ):
        for allocate in ("uniform", "global"):
            scores = random_scores(source) if allocate == "global" else None
            left = []
            for ratio in RATIOS:
                plan = planned(source, scores, ratio=ratio, allocate=allocate)
                left.append(plan.compressed.macs / plan.dense.macs)
            off = [abs(1 - a - r) for a, r in zip(left, RATIOS, strict=True)]
            falls = all(a > b for a, b in itertools.pairwise(left))
            found[f"{name}, {allocate}"] = {
                "asked": RATIOS, "left": left, "worst": max(off), "monotone": falls,
            }  # fmt: skip


def random_scores(source: Source):
    problem = problem_of(source, resolve(family=source.class_name), None, 16)
    generator = np.random.default_rng(0)
    return {g.name: generator.exponential(size=g.size) for g in problem.costs.groups}


_SDXL = """
import resource, sys, time
start = time.perf_counter()
from diffc.models.source import find
from diffc.prune.planning import make_plan
from diffc.recipe import resolve
source = find(sys.argv[1], need_weights=False)
plan = make_plan(source, resolve(family=source.class_name, flags={"prune": {"ratio": 0.5}}), None,
                 {}, 16)
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
      plan.dense.macs, plan.compressed.macs, len(plan.groups))
"""


def sdxl(args, found: dict) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SDXL, str(args.configs / "sdxl")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    seconds, peak, dense, left, groups = map(float, done.stdout.split()[-5:])
    found |= {"seconds": seconds, "peak_rss_bytes": peak, "groups": groups,
              "macs_left": left / dense}  # fmt: skip


# --- latency --------------------------------------------------------------------------------------


HALF = {"ratio": 0.5, "ratio_of": "macs"}
VARIANTS = {  # name: alignment, options; the part before the colon is the network
    "own: dense": (16, None),
    "own: latency": (16, {**HALF, "allocate": "latency"}),
    "own: uniform to 32": (16, {**HALF, "allocate": "uniform"}),
    "own: half the latency": (
        16, {"ratio": 0.5, "ratio_of": "latency", "allocate": "latency"}
    ),
    "one group: dense": (16, None),
    "one group: latency": (16, {**HALF, "allocate": "latency"}),
    "one group: uniform to 16": (16, {**HALF, "allocate": "uniform"}),
    "one group: uniform to 8": (8, {**HALF, "allocate": "uniform"}),
    "one group: uniform, unaligned": (1, {**HALF, "allocate": "uniform"}),
}  # fmt: skip


def latency(args, found: dict) -> None:
    """Two networks: CIFAR's own (32 normalisation groups: every width is a multiple of 32 then),
    and the same with one group, where unaligned widths and multiples of 8 are possible at all.

    No weights: time does not depend on them, and uniform and latency then have the same ranking,
    none. Engines are kept in the work folder, so that an interrupted run goes on.
    """
    own = config_of(args, "ddpm-cifar10-32")
    free = Source("one group", own.folder, "", own.class_name,
                  {**own.config, "norm_num_groups": 1}, {}, ())  # fmt: skip
    bench = LatencyDevice("ort-cpu", cache=args.work, threads=args.threads)
    folder = args.work / f"engines-{args.threads}"
    for name, (align, prune) in VARIANTS.items():
        place = folder / name.replace(": ", "-").replace(" ", "-")
        if not (place / "facts.json").exists():
            print(time.strftime("%H:%M:%S"), name, flush=True)
            facts = planned_engine(own if name.startswith("own") else free, align, prune, bench,
                                   place)  # fmt: skip
            (place / "facts.json").write_text(json.dumps(facts))
        found[name] = json.loads((place / "facts.json").read_text())
        found[name]["engine"] = str(place / "engine")
    engines = {name: Path(found[name].pop("engine")) for name in VARIANTS}
    found["threads"] = args.threads
    together(engines, {name: found[name]["macs"] for name in VARIANTS}, bench, found, args.rounds)


def planned_engine(source: Source, align: int, prune, bench: LatencyDevice, place: Path) -> dict:
    """Plan and build one variant into ``place``."""
    recipe = resolve(family=source.class_name, flags={"prune": {"cut": "width", **(prune or {})}})
    problem = problem_of(source, recipe, None, align)
    start, why = time.perf_counter(), None
    with tempfile.TemporaryDirectory() as scratch:
        if prune is None:
            widths = problem.costs.dense
        elif "latency" in (prune["allocate"], prune["ratio_of"]):
            timed = drain(widths_by_latency(problem, bench, Path(scratch)))
            widths, why = timed.widths, timed.why
        else:
            widths = chosen_widths(problem)
    seconds = time.perf_counter() - start
    drain(EngineTrials(problem, bench, place.parent).build(widths, place.name))
    macs = problem.costs.macs(widths)
    return {"plan_seconds": seconds, "macs": macs, "why": why, "widths": widths.tolist()}


def together(engines, macs, bench: LatencyDevice, found: dict, rounds: int) -> None:
    """Every engine in turn; each against the dense one of its own network."""
    runners = {name: target(bench.target).load(path) for name, path in engines.items()}
    calls = {
        name: runner.bind(engine_inputs(read_info(engines[name]), 1)).run
        for name, runner in runners.items()
    }
    load = os.getloadavg()
    timings = drain(interleaved(calls, LatencyOptions(rounds=rounds, seconds=5.0)))
    for name in engines:
        dense = f"{name.split(':')[0]}: dense"
        ratio, left = timings.ratio(dense, name), macs[name] / macs[dense]
        found.setdefault(name, {}).update(
            ms=float(np.median(timings.round_medians(name))) * 1e3, macs_left=left,
            speedup=ratio.median, ci95=ratio.ci95, efficiency=ratio.median * left,
        )  # fmt: skip
    found["load"] = [load, os.getloadavg()]


# --- passes ---------------------------------------------------------------------------------------


def passes(args, found: dict) -> None:
    """The full pass: gradients at every timestep of S (``passes`` = as many), batch 8."""
    study = Study(args)
    _, why, _ = study.scores("diff-pruning", 0, passes=1, batch=1)
    inside = sum(last - first + 1 for first, last in why["chosen_t"])
    full, _, seconds = study.scores("diff-pruning", 100, passes=inside)
    found["full"], found["score"] = {"passes": inside, "seconds": seconds}, "ours"
    for n in (8, 16, 32, 64, 128):
        scores, _, seconds = study.scores("diff-pruning", 0, passes=n)
        found[str(n)] = {**correlation(scores, full), "seconds": seconds, "passes": n}
        args.save()
        print(n, found[str(n)], flush=True)
    _, why, seconds = study.scores("reference", 0)
    found["reference"] = {"passes": why["passes"], "seconds": seconds}


def correlation(scores, full) -> dict[str, float]:
    """Spearman's rank correlation over all channels, and its mean over groups."""
    names = sorted(full)
    flat = [np.concatenate([s[name] for name in names]) for s in (scores, full)]
    each = [spearmanr(scores[n], full[n]).statistic for n in names if len(full[n]) > 4]
    return {"all": float(spearmanr(*flat).statistic), "per_group": float(np.mean(each)),
            "worst_group": float(np.min(each))}  # fmt: skip


# --- the whole ------------------------------------------------------------------------------------

SECTIONS = {"sizes": sizes, "budget": budget, "sdxl": sdxl, "latency": latency,
            "heldout": heldout, "passes": passes}  # fmt: skip


def summary(results: dict) -> str:
    """Markdown."""
    lines = []
    for name, section in results["sections"].items():
        lines += [f"## {name}", ""]
        for key, value in section.items():
            if key not in ("seeds", "environment"):
                lines.append(f"- {key}: {short(value)}")
        lines.append("")
    return "\n".join(lines)


def short(value) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        skip = ("why", "widths")
        return ", ".join(f"{k} {short(v)}" for k, v in value.items() if k not in skip)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(short(v) for v in value) + "]"
    return str(value)


def read(path: Path) -> dict:
    return json.loads(path.read_text()) if path.exists() else {"sections": {}}


def save(path: Path, name: str, section: dict) -> None:
    results = read(path)  # other sections may have been written since
    results["sections"][name] = section
    path.write_text(json.dumps(results, indent=1) + "\n")


def main() -> None:
    """See the top."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--configs", type=Path, default=Path("../shared/configs"))
    parser.add_argument("--fashion", type=Path, default=FASHION)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--threads", type=int, default=1, help="of the engines in latency")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), help="of heldout")
    parser.add_argument("--work", type=Path, default=Path("build/pruning"))
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    environment = read_environment().model_dump(mode="json")
    for name in args.only:
        # the held-out seeds add up; every other section is made anew
        section = read(args.out)["sections"].get(name, {}) if name == "heldout" else {}
        section |= {"date": date.today().isoformat(), "environment": environment}
        args.save = lambda name=name, section=section: save(args.out, name, section)
        SECTIONS[name](args, section)
        args.save()
    results = read(args.out)
    print(summary(results))


if __name__ == "__main__":
    main()
