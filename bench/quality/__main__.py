"""Which pruning and which training keep quality, at equal MACs, equal steps and equal data.

    python -m bench.quality --model demo --data /usr/share/datasets/fashion-mnist --minutes 60
    python -m bench.quality --model cifar --data CIFAR --minutes 600 --out FOLDER/quality-cifar
    python -m bench.quality (the same arguments) --only latency        on a quiet machine

--model: ``demo``, a diffusers folder, or ``cifar``: the paper's 35.7 M UNet, trained here first
(EMA, bf16 where the GPU has it). --data: see judge.py; every row has the same data, noise and
steps.

    rows       dense; then, each finetuned plainly (the noise loss, evenly over t, as the paper):
               our widths from new weights ("from scratch"), random, magnitude, torch-pruning's own
               Taylor pruner, and the published Diff-Pruning (reference, also at a lower learning
               rate); ours, with the losses of the recipe unet2d; ours in half of the steps; ours
               without the feature loss; ours' pruning with plain finetuning. `depth too,
               repaired` leaves out branches and repairs before the training; with `Muon` it is
               trained by the recipe's own optimiser, in the place of AdamW at 1e-3. --rows NAME ...
               runs these and the dense one; what the file has of others stays, and the table says
               which were judged by another classifier
    columns    parameters, MACs, latency (an engine call, batch 1, rows in turn), Frechet distance
               to the test images on the features of a small classifier that is trained here (its
               test accuracy is in the results), SSIM to the dense model from the same noise
    curves     both figures at a quarter, a half, three quarters and all of the steps

Everything lives in --work: stop or kill it at any moment, run the same command, and it goes on from
the last checkpoint of the row at hand, which is no older than three minutes. After --minutes it
stops by itself, at the step at hand. Results are written after every row.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from bench.quality.judge import accuracy
from bench.quality.latency import latencies
from bench.quality.results import ACCURACY, table, write
from bench.quality.rows import ROWS, Row
from bench.quality.study import OutOfTime, Study
from bench.quality.training import run_row, sizes
from diffc.measure.environment import read_environment
from diffc.models.load import load_denoiser
from diffc.recipe import DistillSection

RESULT = Path(__file__).parents[1] / "results" / "quality"


def study_all(study: Study, results: dict) -> None:
    judge, dense = study.judge, load_denoiser(study.source)
    results["how"]["sampling"] = judge.facts()
    results["how"][ACCURACY] = accuracy(judge.network, study.test_set, study.device)
    results["how"]["environment"] = read_environment().model_dump(mode="json")
    samples = study.dense_samples
    figures = {**sizes(dense, samples), **judge.figures(samples, None)}
    results["rows"]["dense"] = results["rows"].get("dense", {}) | figures
    results["rows"]["dense"][ACCURACY] = results["how"][ACCURACY]
    for row in wanted(study):
        print(f"{time.strftime('%H:%M:%S')}  {row.name}", flush=True)
        latency = results["rows"].get(row.name, {})  # from an earlier --only latency
        figures = run_row(study, row) | {ACCURACY: results["how"][ACCURACY]}
        results["rows"][row.name] = latency | figures
        write(study, results)
    results["complete"] = len(results["rows"]) == len(ROWS) + 1


def wanted(study: Study) -> list[Row]:
    names = [row.name for row in ROWS]
    for name in study.args.rows or ():
        if name not in names:
            raise SystemExit(f"there is no row '{name}'; rows: {', '.join(names)}")
    return [row for row in ROWS if not study.args.rows or row.name in study.args.rows]


def earlier(study: Study, path: Path) -> dict:
    """The results so far: those of the file, if they are this study's.

    Some rows alone replace no other study's: then the settings that differ are named.
    """
    new: dict = {"how": {**study.settings}, "rows": {}, "complete": False}
    if not path.exists():
        return new
    old = json.loads(path.read_text())
    if not study.is_mine(old["how"]):
        if not study.args.rows:
            return new
        other = {k: v for k, v in study.settings.items() if old["how"].get(k) != v}
        words = ", ".join(f"{name} {old['how'].get(name)}, not {v}" for name, v in other.items())
        raise SystemExit(f"{path} has rows of other settings ({words}): give these, or another "
                         "--out")  # fmt: skip
    for row in old["rows"].values():
        row.setdefault(ACCURACY, old["how"].get(ACCURACY))
    return {**old, "how": {**old["how"], **study.settings}}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--steps", type=int, default=DistillSection().steps)
    parser.add_argument("--batch", type=int, default=DistillSection().batch)
    parser.add_argument("--dense-steps", type=int, default=100_000)
    parser.add_argument("--dense-batch", type=int, default=128)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--curve-samples", type=int, default=64)
    parser.add_argument("--sampling-steps", type=int, default=50)
    parser.add_argument("--train-images", type=int, default=60_000)
    parser.add_argument("--test-images", type=int, default=10_000)
    parser.add_argument("--classifier-epochs", type=int, default=3)
    parser.add_argument(
        "--passes", type=int, help="of the ranking, which then has few timesteps: a try"
    )
    parser.add_argument("--rows", nargs="*", help="only these")
    parser.add_argument("--only", choices=["latency"], help="measure it for the rows that are done")
    parser.add_argument("--target", default="ort-cpu", help="whose engine latency is of")
    parser.add_argument("--work", type=Path, default=Path("build/quality"))
    parser.add_argument("--out", type=Path, default=RESULT)
    return parser.parse_args()


def main() -> None:
    """See the top."""
    study = Study(arguments())
    path = study.args.out.with_suffix(".json")
    results = earlier(study, path)
    if study.args.only and not results["rows"]:
        raise SystemExit(f"{path} has no rows of these settings: run without --only first")
    try:
        if study.args.only == "latency":
            latencies(study, results)
        else:
            study_all(study, results)
    except OutOfTime:
        print("the time given is over; the same command goes on from here")
    if results["rows"]:
        write(study, results)
        print(table(results))
        print(json.dumps(results["claims"], indent=1))


if __name__ == "__main__":
    main()
