"""How a student of a loop is trained best: rows of one short training each, all from one start.

    python -m bench.loop_students --data /usr/share/datasets/fashion-mnist [--loop ddim:1]
                                  [--steps 60] [--rows "optimizer=adamw learning_rate=2e-4" ...]

A row is `diffc compile demo --distill-for loop` up to OUT/model with other options of
`distill.loop`; all share the repair, the distillation and the trajectories. Its figures, on
--images images from the same noise: the Frechet distance of bench.frontier's classifier to the test
images of --data, with its bootstrap error; SSIM to dense DPM-Solver++ of as many steps as the
trajectories have, and to dense DDIM-50. Processor seconds are those of the training alone, in this
process with one thread: other work on the machine changes them less than the seconds on the clock.

Each row is written to bench/results/loop_students.json as soon as it is done, and replaces an
earlier one of the same loop, steps and options.
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch

import diffc
from bench.frontier import figures
from bench.frontier.rows import DENSE, Images, Model
from diffc.measure.environment import read_environment
from diffc.measure.quality.ssim import METRIC as SSIM
from diffc.models.source import find_source

RESULT = Path(__file__).parent / "results" / "loop_students.json"
ROWS = (
    "optimizer=adamw learning_rate=6e-4",
    "optimizer=adamw learning_rate=2e-4",
    "optimizer=muon learning_rate=1e-3",
    "optimizer=muon learning_rate=1e-3 features=0.3",
)
SAME = ("loop", "steps", "options")


def options_of(words: str) -> dict[str, Any]:
    """{'learning_rate': 2e-4} for 'learning_rate=2e-4'; without it the features are left out."""
    pairs = (word.partition("=") for word in words.split())
    given = {name: value if value.isalpha() else float(value) for name, _, value in pairs}
    return {"features": 0.0, **given}


def train(args: argparse.Namespace, options: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """One run of the product up to OUT/model, and what its training took."""
    name = " ".join(f"{key}={value}" for key, value in options.items())
    out, started, seconds = args.work / f"{args.loop} {args.steps} {name}", {}, {}

    def note(event: diffc.runner.StageEvent) -> None:
        if event.kind == "started":
            started[event.stage] = time.process_time()
        if event.done is not None and not event.done.cached:
            seconds[event.stage] = time.process_time() - started[event.stage]

    loop = {"steps": args.steps, "warmup": 10, "ema_decay": 0.95, **options}
    report = diffc.compile(
        "demo", ratio=args.ratio, out=out, stop="distill", on_event=note, force=True,
        options={"loops": [args.loop], "quality": {"images": 4},
                 "distill": {"aim": "loop", "steps": 80, "quality_every": 0, "loop": loop}},
    )  # fmt: skip
    done = report.loop_distillation
    last = [loss for step, loss in done["losses"] if step > 0.8 * args.steps]
    return out, {
        "processor_seconds": seconds.get("distill-loop"),
        "loss": sum(last) / len(last),
        "notes": done["notes"],
    }


def row(args: argparse.Namespace, words: str, judge: Any, dense: Model) -> dict[str, Any]:
    """The figures of one training."""
    options = options_of(words)
    out, trained = train(args, options)
    images = Images(args.work, args.images, 0)
    student = Model(words, out, (args.loop,))
    images.make([dense, student])
    ours = images.read(student, args.loop)
    teacher, usual = (images.read(dense, loop) for loop in dense.loops)
    return {
        "loop": args.loop, "steps": args.steps, "options": options, **trained,
        "frechet": judge.frechet(ours),
        "dense_frechet": {loop: judge.frechet(images.read(dense, loop)) for loop in dense.loops},
        "ssim_to_teacher": float(sum(SSIM.of_pairs(teacher, ours)) / len(ours)),
        "ssim_to_ddim_50": float(sum(SSIM.of_pairs(usual, ours)) / len(ours)),
    }  # fmt: skip


def table(study: dict[str, Any]) -> str:
    """The rows as Markdown."""
    lines = ["| loop | steps | options | processor s | Frechet (se) | SSIM to teacher | DDIM |",
             "|---|--:|---|--:|--:|--:|--:|"]  # fmt: skip
    for one in study["rows"]:
        words = ", ".join(f"{name} {value}" for name, value in one["options"].items())
        seconds = one["processor_seconds"]
        lines.append(
            f"| {one['loop']} | {one['steps']} | {words} | "
            f"{'reused' if seconds is None else format(seconds, '.0f')} | "
            f"{one['frechet']['value']:.2f} ({one['frechet']['se']:.2f}) | "
            f"{one['ssim_to_teacher']:.3f} | {one['ssim_to_ddim_50']:.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """See the top."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", nargs="*", default=ROWS)
    parser.add_argument("--loop", default="ddim:1")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--train-images", type=int, default=60_000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("build/loop_students"))
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    dense = Model(DENSE, Path(find_source("demo").folder), ("dpm++:12@trailing", "ddim:50"))
    judge, right = figures.judge_of(args.data, args.work, args.train_images, args.epochs, dense)
    study = json.loads(args.out.read_text()) if args.out.exists() else {"rows": []}
    study |= {
        "date": date.today().isoformat(), "ratio": args.ratio, "images": args.images,
        "classifier_accuracy": right, "environment": read_environment().model_dump(mode="json"),
    }  # fmt: skip
    for words in args.rows:
        print(time.strftime("%H:%M:%S"), words, flush=True)
        one = row(args, words, judge, dense)
        same = {name: one[name] for name in SAME}
        study["rows"] = [old for old in study["rows"] if not same.items() <= old.items()] + [one]
        args.out.write_text(json.dumps(study, indent=1) + "\n")
    print(table(study))


if __name__ == "__main__":
    main()
