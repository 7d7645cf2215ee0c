"""What a millisecond buys: the dense and the compressed model over samplers and steps.

    diffc compile demo --ratio 0.5 --distill-for all-steps --loop own --distill-steps 320 \\
        --out diffc-out/demo
    python -m bench.frontier diffc-out/demo --data /usr/share/datasets/fashion-mnist
    python -m bench.frontier (the same) --also "compressed, distilled for 1 step" OUT-1 own:1
    python -m bench.frontier OUT --data DATA --small        a few images of a few loops: a test

--also LABEL FOLDER LOOPS: another model beside them: an output folder (its OUT/model) or a model's
folder, and its loops, separated by commas; repeatable. So students that were trained for a loop,
the dense model among them, and other ratios stand in the same tables. Each model is sampled by the
scheduler config in its own folder. A LABEL that begins with "dense" is of the dense side.

--timed LABEL TARGET PRECISION: the first loop of a model of --also on another engine too, whose
parity with torch in float32 stands beside its time; repeatable. Torch eager's dense reference loop
is always timed.

    images     by torch, in bf16 where the machine is fast at it (what that changes is measured and
               stands in the results); kept in --work, so that a stopped run goes on
    cost       whole loops of one image by the target's engines, all rows in turn, in calls of the
               dense model: the paired ratio to dense DDIM-50, times 50
    distance   Frechet, on the features of a classifier that is trained here, to the test images of
               --data; the standard error is the bootstrap's
    own        the distances on the dense model's own features, as every report has them; their rank
               correlation with the classifier's is in the results

Writes frontier.json, .md and .png and frontier-images.png beside --out. 1,000 images a row take
about half an hour on two quiet cores with AMX.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bench.frontier import clock, figures, results
from bench.frontier.rows import COMPRESSED, DENSE, LOOPS, SMALL, Images, Model
from diffc.data.clean import CleanSet
from diffc.data.precision import best_device, fast_dtype
from diffc.measure.environment import read_environment
from diffc.output import read_lock
from diffc.stage_records import STATE
from diffc.stages.data import CLEAN
from diffc_runtime.files import write_text

RESULT = Path(__file__).parents[1] / "results" / "frontier"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="the output folder of diffc compile")
    parser.add_argument("--data", type=Path, required=True, help="see bench/quality/judge.py")
    parser.add_argument("--dense", help="the dense model, where it is not where OUT says")
    parser.add_argument("--also", nargs=3, action="append", default=[],
                        metavar=("LABEL", "FOLDER", "LOOPS"))  # fmt: skip
    parser.add_argument("--timed", nargs=3, action="append", default=[],
                        metavar=("LABEL", "TARGET", "PRECISION"))  # fmt: skip
    parser.add_argument("--loops", help="these of both sides, separated by commas")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=15, help="of timing every loop")
    parser.add_argument("--target", default="ort-cpu")
    parser.add_argument("--train-images", type=int, default=60_000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="a few images of a few loops")
    parser.add_argument("--work", type=Path, default=Path("build/frontier"))
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    if args.small:
        args.images, args.train_images, args.epochs, args.rounds = 16, 64, 1, 3
    return args


def models_of(args: argparse.Namespace) -> list[Model]:
    """The dense model, the compressed one, and those of --also."""
    loops = SMALL if args.small else LOOPS
    if args.loops:
        loops = dict.fromkeys(loops, tuple(args.loops.split(",")))
    folder = Path(args.dense or read_lock(args.run)["model"]["folder"])
    models = [Model(DENSE, folder, loops[DENSE]), Model(COMPRESSED, args.run, loops[COMPRESSED])]
    for label, folder, some in args.also:
        models.append(Model(label, Path(folder), tuple(some.split(","))))
    return models


def main() -> None:
    """See the top."""
    args = arguments()
    start, models = time.monotonic(), models_of(args)
    images = Images(args.work, args.images, args.seed)
    images.make(models)
    sampled = time.monotonic()
    judge, right = figures.judge_of(args.data, args.work, args.train_images, args.epochs, models[0])
    clean = CleanSet.load(args.run / STATE / CLEAN)
    rows = figures.measure(models, images, judge, clean)
    judged, load = time.monotonic(), os.getloadavg()
    fast = [clock.Fast(*one) for one in args.timed]
    costs, faster = clock.measure(
        models, args.run, args.work, name=args.target, rounds=args.rounds, fast=fast
    )
    whole = [{**row, **costs[key]} for key, row in rows.items()]
    found: dict[str, Any] = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "how": {
            "images": args.images, "seed": args.seed, "target": args.target,
            "unit": clock.reference_row(models).split()[-1],
            "sampled_in": str(fast_dtype(best_device())).removeprefix("torch."),
            "rounding": figures.rounding(images, models[0], judge, min(args.images, 64)),
            "classifier_accuracy": right, "test_images": judge.real.n,
            "test_sha256": judge.real.digest, "own_reference": clean.origin,
            "load_before_timing": load,
            "seconds": {"sampling": round(sampled - start), "judging": round(judged - sampled),
                        "timing": round(time.monotonic() - judged)},
            "environment": read_environment().model_dump(mode="json"),
        },
        "rows": whole,
        "faster": faster,
        "at_equal_time": results.at_equal_time(whole),
        "behind": results.behind(whole),
        "ranks": figures.ranks(whole),
    }  # fmt: skip
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(args.out.with_suffix(".json"), json.dumps(found, indent=1) + "\n")
    write_text(args.out.with_suffix(".md"), results.table(found))
    results.plot(found, args.out.with_suffix(".png"))
    results.sheet(models, images, args.out.with_name(f"{args.out.name}-images.png"))
    print(results.table(found))


if __name__ == "__main__":
    main()
