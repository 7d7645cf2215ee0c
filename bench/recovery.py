"""How good the demo is after how many steps of distillation, with the repair and without it.

    python -m bench.recovery [--steps 0 40 80 160 240 320] [--repair on off] [--seed 0]
                             [--rates adamw:1e-3 muon:3e-4] [--ratio 0.5] [--fashion FOLDER]

Every row is `diffc compile demo --distill-for all-steps --loop own` up to its samples: SSIM to the
dense model's images, from the same noise, on as many images as the samples stage makes; the squared
noise error on Fashion-MNIST's test images; and what the stages took. Processor seconds are those of
this process: other work on the machine changes them less than the seconds on the clock. None stands
for a stage that was reused.

Each row is written to bench/results/recovery.json as soon as it is done, and replaces an earlier
one of the same repair, steps, optimiser, rate and seed. Stages are kept in the work folder, so that
rows share the samples, the importance and the plan.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import diffc
from bench.held_out import FASHION, HeldOut
from diffc.measure.environment import read_environment
from diffc.models.denoiser import denoiser_of
from diffc.models.families import family
from diffc.models.load import load_denoiser
from diffc.models.source import find_source

RESULT = Path(__file__).parent / "results" / "recovery.json"
STAGES = ("repair", "distill")
SAME = ("repair", "steps", "optimizer", "learning_rate", "seed")


def row(args: argparse.Namespace, held_out: HeldOut, mode: str, steps: int, rule: str) -> dict:
    """One run of the product, and what it left; ``rule``: optimiser:rate."""
    seed, (optimizer, rate) = args.seed, rule.split(":")
    out = args.work / f"{mode}-{steps}-{optimizer}-{rate}-{seed}"
    processor, started = {}, {}

    def note(event: diffc.runner.StageEvent) -> None:
        now = time.process_time()
        if event.kind == "started":
            started[event.stage] = now
        if event.done is not None and not event.done.cached:
            processor[event.stage] = now - started[event.stage]

    report = diffc.compile(
        "demo", ratio=args.ratio, out=out, stop="distill", on_event=note, force=True, fresh=False,
        options={"repair": {"mode": mode}, "seed": seed, "loops": [],
                 "distill": {"aim": "all-steps", "steps": steps, "optimizer": optimizer,
                             "learning_rate": float(rate), "quality_every": 0}},
    )  # fmt: skip
    seconds = {stage.name: stage.seconds for stage in report.stages}
    ssim, errors = report.quality["ssim"], report.repair
    return {
        "repair": mode, "steps": steps, "optimizer": optimizer, "learning_rate": float(rate),
        "seed": seed, "is_used": report.distillation.get("is_used", True),
        "ssim": ssim["mean"], "ssim_ci95": ssim["ci95"], "images": ssim["n"],
        "held_out_error": held_out.error(load_denoiser(find_source(str(out / "model")))),
        "repair_errors": {side: errors[side] for side in ("dense", "cut", "repaired")},
        "seconds": {name: seconds[name] for name in STAGES},
        "processor_seconds": {name: processor.get(name) for name in STAGES},
        "reused": [stage.name for stage in report.stages if stage.cached],
        "sampler": {name: ssim[name] for name in ("sampler", "steps") if name in ssim},
        "load": os.getloadavg()[0],
    }  # fmt: skip


def rows(args: argparse.Namespace, held_out: HeldOut) -> Iterator[dict]:
    """Every row that was asked for."""
    for mode, steps, rule in itertools.product(args.repair, args.steps, args.rates):
        if steps or rule == args.rates[0]:  # without steps all rules are one
            print(time.strftime("%H:%M:%S"), "repair", mode, "steps", steps, rule, flush=True)
            yield row(args, held_out, mode, steps, rule)


def table(study: dict) -> str:
    """The rows as Markdown."""
    lines = ["| repair | steps | optimiser | learning rate | SSIM | held-out error | seconds |",
             "|---|--:|---|--:|--:|--:|--:|"]  # fmt: skip
    for one in study["rows"]:
        lines.append(
            f"| {one['repair']} | {one['steps']} | {one['optimizer']} | "
            f"{one['learning_rate']:g} | {one['ssim']:.3f} | "
            f"{one['held_out_error']:.4f} | {one['seconds']['distill']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """See the top."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="*", default=[0, 40, 80, 160, 240, 320])
    parser.add_argument("--repair", nargs="*", choices=("on", "off"), default=["on", "off"])
    parser.add_argument("--rates", nargs="*", default=["adamw:1e-3"], help="optimiser:rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--fashion", type=Path, default=FASHION)
    parser.add_argument("--work", type=Path, default=Path("build/recovery"))
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    os.environ["DIFFC_CACHE"] = str((args.work / "cache").resolve())
    source = find_source("demo")
    dense = load_denoiser(source)
    held_out = HeldOut(
        denoiser_of(dense, family(source.class_name), source.scheduler), args.fashion
    )
    study = json.loads(args.out.read_text()) if args.out.exists() else {"rows": []}
    study |= {
        "date": date.today().isoformat(), "ratio": args.ratio,
        "environment": read_environment().model_dump(mode="json"),
        "dense_held_out_error": held_out.error(dense),
    }  # fmt: skip
    for one in rows(args, held_out):
        same = {name: one[name] for name in SAME}
        kept = [other for other in study["rows"] if not same.items() <= other.items()]
        study["rows"] = sorted([*kept, one], key=lambda each: [each[name] for name in SAME])
        args.out.write_text(json.dumps(study, indent=1) + "\n")
    print(table(study))


if __name__ == "__main__":
    main()
