"""`diffc search` against brute force: how good its choice is, and how much training it needs.

    python -m bench.search [--aim loop] [--steps 40] [--goals 0.5,0.6] [--precisions fp32,int8]

Brute force trains and measures every point of 3 ratios x 2 precisions x 5 loops. Then the search
itself runs for several goals of quality in the same cache, so that what both train is trained once;
which trainings the search needs does not depend on that.

    latency    of the search's choice over that of the fastest point that reaches the goal, both
               from the block in which brute force timed all points in turn
    training   the search's trainings, as a share of two brute forces: of one that compiles each
               point alone, 30 trainings; and of the cheapest that there is, in which points share
               every stage that they can, as they do in diffc's cache: 3 trainings, or 15 with
               --aim loop. Processor seconds, which other work on the machine changes less than
               those on the clock

The goals are those of --goals; else, spread evenly, --most of the qualities that the fastest points
of their quality just reach and of those halfway between.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

from diffc.data.recipe_of_model import recipe_of_model
from diffc.measure.environment import read_environment
from diffc.models.source import find_source
from diffc.runner import StageEvent
from diffc.trials.goals import Goals
from diffc.trials.request import SearchRequest, space_of
from diffc.trials.results import CandidateResult, SearchResult, TrialRecord
from diffc.trials.running import try_points
from diffc_export.events import follow
from diffc_runtime.files import write_text

RESULT = Path(__file__).parent / "results" / "search.json"
RATIOS = ("0.2", "0.35", "0.5")
LOOPS = {
    "all-steps": tuple(f"dpm++:{steps}@trailing" for steps in (12, 8, 6, 4, 3)),
    "loop": tuple(f"ddim:{steps}" for steps in (5, 4, 3, 2, 1)),
}
SSIM = "ssim"
NOTHING = 0.001
"""A goal that every point reaches, for brute force, which has none."""


class Seconds:
    """Stage -> processor seconds of its work, in a file that outlives a stopped run."""

    def __init__(self, path: Path) -> None:
        self._path, self._begins = path, dict[str, float]()
        self._last = time.process_time()
        self.by_key: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}

    def note(self, event: StageEvent) -> None:
        if event.kind == "started":
            # a search says that a stage began once it knows that its work was not done before
            self._begins[event.stage] = self._last
        elif event.kind == "finished" and event.done is not None:
            used = time.process_time() - self._begins[event.stage]
            self.by_key[event.done.key] = used
            write_text(self._path, json.dumps(self.by_key))
        if event.note or event.kind in ("heading", "finished"):
            print(time.strftime("%H:%M:%S"), event.stage, event.note, flush=True)
        self._last = time.process_time()

    def of(self, trials: Sequence[TrialRecord]) -> float:
        """The trainings, each stage once."""
        clock = {key: one for trial in trials for key, one in trial.stages.items()}
        return sum(self.by_key.get(key, seconds) for key, seconds in clock.items())

    def alone(self, result: SearchResult) -> float:
        """The training of every point of brute force, as if each were compiled alone."""
        return sum(
            self.of([trial])
            for one in result.candidates
            for trial in result.trials
            if trial.values.items() <= one.values.items()
        )


def request_of(args: argparse.Namespace, goal: float, *, spare: bool) -> SearchRequest:
    """One search of the demo."""
    source = find_source("demo")
    options = {
        "build": {"target": args.target},
        "quality": {"images": args.images},
        "loops": (),
        "distill": {
            "aim": args.aim,
            "steps": args.steps,
            "quality_every": 0,
            "loop": {"steps": args.loop_steps},
        },
    }
    recipe = recipe_of_model(source, None, options)
    out = args.work / "nothing is written here"
    precisions = tuple(args.precisions.split(","))
    values = {"ratio": RATIOS, "precision": precisions, "loop": LOOPS[args.aim]}
    return SearchRequest(source, recipe, Goals(min_ssim=goal), values, out, spare=spare)


def run(request: SearchRequest, seconds: Seconds) -> SearchResult:
    result: SearchResult = follow(try_points(request, space_of(request)), seconds.note)
    return result


def ssim(one: CandidateResult) -> float:
    return one.point.figures[SSIM].value


def ms(one: CandidateResult) -> float:
    assert one.point.latency_ms is not None
    return one.point.latency_ms.p50


def goals_of(brute: SearchResult, most: int) -> list[float]:
    """Qualities that points of the front just reach, and qualities halfway between them."""
    front: list[float] = []
    for one in brute.candidates:  # the fastest first
        if not front or ssim(one) > front[-1]:
            front.append(ssim(one))
    between = [(a + b) / 2 for a, b in pairwise(front)]
    every = sorted({int(1000 * value) / 1000 for value in (*front, *between)})
    if len(every) <= most:
        return every
    return [every[round(i * (len(every) - 1) / (most - 1))] for i in range(most)]


def compared(goal: float, found: SearchResult, brute: SearchResult, seconds: Seconds) -> Any:
    """One row: the search's choice and its cost beside brute force."""
    able = [one for one in brute.candidates if ssim(one) >= goal]
    best, ours = min(able, key=ms), brute.candidate(found.chosen)
    spent = seconds.of(found.trials)
    return {
        "min_ssim": goal,
        "chosen": None if ours is None else ours.name,
        "chosen_ms": None if ours is None else ms(ours),
        "chosen_ssim": None if ours is None else ssim(ours),
        "best": best.name,
        "best_ms": ms(best),
        "latency": None if ours is None else ms(ours) / ms(best),
        "trainings": len(found.trials),
        "trained": [" ".join(one.values.values()) for one in found.trials],
        "processor_seconds": spent,
        "of_each_alone": spent / seconds.alone(brute),
        "of_shared": spent / seconds.of(brute.trials),
    }


def table(study: dict[str, Any]) -> str:
    """The rows as Markdown."""
    lines = ["| SSIM at least | search chooses | the best | its time over the best's | trainings "
             "| of each point alone | of shared trainings |",
             "|--:|---|---|--:|--:|--:|--:|"]  # fmt: skip
    for one in study["rows"]:
        latency = "-" if one["latency"] is None else f"{one['latency']:.3f}"
        lines.append(
            f"| {one['min_ssim']:.3f} | {one['chosen']} | {one['best']} | {latency} | "
            f"{one['trainings']} of {study['trainings']} | {one['of_each_alone']:.1%} | "
            f"{one['of_shared']:.0%} |"
        )
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--aim", choices=list(LOOPS), default="all-steps")
    parser.add_argument("--target", default="openvino")
    parser.add_argument("--precisions", default="fp32,bf16", help="two; bf16 needs AVX-512")
    parser.add_argument("--steps", type=int, default=40, help="of the distillation")
    parser.add_argument("--loop-steps", type=int, default=20, help="with --aim loop, after those")
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--goals")
    parser.add_argument("--most", type=int, default=7, help="goals at most")
    parser.add_argument("--work", type=Path, default=Path("build/search"))
    parser.add_argument("--out", type=Path, default=RESULT)
    return parser.parse_args()


def main() -> None:
    """See the top."""
    args = arguments()
    args.work.mkdir(parents=True, exist_ok=True)
    seconds = Seconds(args.work / "seconds.json")
    brute = run(request_of(args, NOTHING, spare=False), seconds)
    goals = [float(goal) for goal in args.goals.split(",")] if args.goals else None
    rows = []
    for goal in goals or goals_of(brute, args.most):
        found = run(request_of(args, goal, spare=True), seconds)
        rows.append(compared(goal, found, brute, seconds))
    points = [{"name": one.name, "ms": ms(one), "ssim": ssim(one)} for one in brute.candidates]
    study = {
        "date": date.today().isoformat(), "target": args.target, "axes": brute.axes,
        "steps": args.steps, "loop_steps": args.loop_steps if args.aim == "loop" else 0,
        "images": args.images, "environment": read_environment().model_dump(mode="json"),
        "trainings": len(brute.trials), "processor_seconds": seconds.of(brute.trials),
        "processor_seconds_alone": seconds.alone(brute), "points": points, "rows": rows,
    }  # fmt: skip
    every = json.loads(args.out.read_text()) if args.out.exists() else {}
    write_text(args.out, json.dumps({**every, args.aim: study}, indent=1) + "\n")
    print(table(study))


if __name__ == "__main__":
    main()
