"""What each value of the demo's recipe costs and gives: the recipe, one value changed at a time.

    python -m bench.demo_values [--data /usr/share/datasets/fashion-mnist]
                                [--rows "" "distill.loop.steps=40" ...]

Every row is `diffc compile demo` up to OUT/model. Its figures are of the served loop's images from
the same noise as the dense model's: SSIM to dense DDIM-50 with the standard error of the mean, the
worst image, and the Frechet distance of bench.frontier's classifier to the test images of --data,
with its bootstrap error. Processor seconds are of the stages up to the model, in this process with
one thread: other work on the machine changes them less than the seconds on the clock. A stage that
several rows share counts in each of them with what it took when it ran; stages lie in --work.

Each row is written to bench/results/demo_values.json as soon as it is done, and replaces an earlier
one of the same values. One seed: a difference of less than twice the error is none.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import statistics
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

RESULT = Path(__file__).parent / "results" / "demo_values.json"
ROWS = (
    "",
    "distill.steps=0",
    "distill.loop.steps=40",
    "distill.loop.steps=120",
    "distill.loop.learning_rate=2e-3",
    "distill.loop.trajectories=128",
    "distill.loop.trajectories=512",
    "distill.loop.teacher_steps=4",
    "distill.loop.features=0",
    "distill.loop.batch=16 distill.loop.steps=160",
    "prune.importance.grid=10 prune.importance.passes=8",
    "repair.rows=16",
    "data.images=64",
    "distill.steps=60",
    "prune.allocate=global",
)
LOOP = "ddim:2"


def nested(words: str) -> dict[str, Any]:
    """{'distill': {'loop': {'steps': 40}}} for 'distill.loop.steps=40'."""
    options: dict[str, Any] = {}
    for word in words.split():
        path, _, value = word.partition("=")
        *sections, name = path.split(".")
        place = options
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value if value.isalpha() else ast.literal_eval(value)
    return options


def train(work: Path, words: str, known: dict[str, float]) -> tuple[Path, dict[str, float]]:
    """One run of the product up to OUT/model: its folder, and what its stages took.

    Args:
        work: Where output folders go.
        words: The values that are not the recipe's own.
        known: Key of a stage -> its processor seconds; joined by those that run now.
    """
    out, started, seconds = work / (words or "as it is"), {}, {}

    def note(event: diffc.runner.StageEvent) -> None:
        if event.kind == "started":
            started[event.stage] = time.process_time()
        if event.done is not None and event.stage in started:
            if not event.done.cached:
                known[event.done.key] = time.process_time() - started[event.stage]
            if event.done.key not in known:
                raise RuntimeError(
                    f"{event.stage} was cached before this study: use another --work"
                )
            seconds[event.stage] = known[event.done.key]

    options = nested(words)
    options["quality"] = {"images": 2}  # Images makes more, and makes the dense ones once
    diffc.compile(
        "demo", ratio=0.5, out=out, stop="distill", on_event=note, force=True, options=options
    )
    seconds.pop("samples", None)  # the same work in every row
    return out, seconds


def row(
    args: argparse.Namespace, words: str, out: Path, seconds: dict[str, float], judge: Any
) -> dict:
    """The figures of one run."""
    dense = Model(DENSE, Path(find_source("demo").folder), ("ddim:50",))
    student = Model(words, out, (LOOP,))
    images = Images(args.work, args.images, 0)
    images.make([dense, student])
    ours, theirs = images.read(student, LOOP), images.read(dense, "ddim:50")
    each = SSIM.of_pairs(theirs, ours)
    return {
        "values": words,
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "ssim": statistics.fmean(each),
        "ssim_se": statistics.stdev(each) / len(each) ** 0.5,
        "ssim_worst": min(each),
        "frechet": judge.frechet(ours),
        "dense_frechet": judge.frechet(theirs),
    }


def table(study: dict[str, Any]) -> str:
    """The rows as Markdown."""
    lines = [
        "| value | processor s | of which loop training | SSIM (se) | worst | Frechet (se) |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for one in study["rows"]:
        seconds, frechet = one["seconds"], one["frechet"]
        lines.append(
            f"| {one['values'] or 'the recipe as it is'} | {sum(seconds.values()):.0f} | "
            f"{seconds.get('distill-loop', 0):.0f} | {one['ssim']:.3f} ({one['ssim_se']:.3f}) | "
            f"{one['ssim_worst']:.3f} | {frechet['value']:.1f} ({frechet['se']:.1f}) |"
        )
    return "\n".join(lines)


def main() -> None:
    """See the top."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--rows", nargs="*", default=ROWS)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--train-images", type=int, default=60_000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("build/demo_values"))
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    os.environ["DIFFC_CACHE"] = str(args.work.resolve() / "cache")
    dense = Model(DENSE, Path(find_source("demo").folder), ("ddim:50",))
    judge, right = figures.judge_of(args.data, args.work, args.train_images, args.epochs, dense)
    study = json.loads(args.out.read_text()) if args.out.exists() else {"rows": [], "known": {}}
    study |= {
        "date": date.today().isoformat(), "images": args.images, "classifier_accuracy": right,
        "environment": read_environment().model_dump(mode="json"),
    }  # fmt: skip
    for words in args.rows:
        print(time.strftime("%H:%M:%S"), words or "the recipe as it is", flush=True)
        out, seconds = train(args.work, words, study["known"])
        args.out.write_text(json.dumps(study, indent=1) + "\n")  # what the stages took is kept
        one = row(args, words, out, seconds, judge)
        study["rows"] = [old for old in study["rows"] if old["values"] != words] + [one]
        args.out.write_text(json.dumps(study, indent=1) + "\n")
    print(table(study))


if __name__ == "__main__":
    main()
