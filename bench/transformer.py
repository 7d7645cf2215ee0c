"""Width, depth, and both: which is best for a trained transformer at half the latency?

    python -m bench.transformer --data /usr/share/datasets/fashion-mnist
    python -m bench.transformer --data DATA --small       a tiny network, a few images: a test

A class-conditional DiT of 3.5 M parameters learns Fashion-MNIST for --dense-seconds of processor
time. Each row then is the network at half the dense engine's time, trained for --seconds by one
recipe, the product's default distillation:

    width, depth, width+depth   `--cut` of that name, `--ratio-of latency --ratio 0.5`, repaired;
                                everything else is the product's default
    torch-pruning               its own Taylor pruner at a uniform channel ratio, chosen so that
                                the engine is nearest to half the time; no repair

    distance   Frechet, on the features of a classifier that is trained here, to the test images;
               the standard error is the bootstrap's. Differences between rows are of the same
               resamples of both, for their images come from the same noise and labels
    held out   squared error of the predicted noise on test images (bench/held_out.py)
    latency    an engine call, batch 1, one thread, all rows in turn
    seconds    of this process's processor time on one thread, so that a neighbour on another core
               changes little

The learning rate follows the share of the seconds that have gone. Everything is kept in --work: a
stopped run goes on, and loses a minute of training at most. bench/results/transformer.json is
written after every row.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import diffc
from bench.frontier.clock import onnx_of
from bench.frontier.figures import judge_of
from bench.frontier.rows import Model
from bench.held_out import HeldOut
from bench.peers.subject import macs_of_call
from bench.quality.judge import read_split
from bench.quality.study import fingerprint, save_whole
from bench.stock_taylor import add_gradients, cut_by_stock
from diffc.data.clean import CleanSet
from diffc.distill.all_steps import AllSteps, ModelPair
from diffc.distill.run import Run, TrainingSettings
from diffc.distill.train import one_step
from diffc.measure.environment import read_environment
from diffc.measure.inputs import example_inputs as engine_inputs
from diffc.measure.latency import LatencyOptions, Timings, interleaved
from diffc.measure.quality.ssim import METRIC as SSIM
from diffc.measure.samples import ModelLoop, sample_images
from diffc.measure.statistics import estimate
from diffc.models.denoiser import Denoiser, denoiser_of
from diffc.models.families import family as family_of
from diffc.models.save import save_compressed
from diffc.prune.plan import Plan
from diffc.recipe import DistillSection, LossesSection
from diffc_export.events import drain
from diffc_export.targets import target
from diffc_export.targets.base import BuildOptions
from diffc_export.targets.engine import read_info
from diffc_runtime.files import write_text

RESULT = Path(__file__).parent / "results" / "transformer.json"
DENSE, STOCK = "dense", "torch-pruning"
BOTH = "width+depth"
CUTS = {"width": "width", "depth": "depth", BOTH: "width,depth"}
ROWS = (BOTH, "width", "depth", STOCK)
RATIO = 0.5
CLASS_NAME, CLASSES, LABELS = "DiTTransformer2DModel", 10, "class_labels"
CONFIG = {
    "num_attention_heads": 6, "attention_head_dim": 24, "num_layers": 8, "sample_size": 32,
    "patch_size": 4, "in_channels": 1, "out_channels": 1, "num_embeds_ada_norm": CLASSES,
}  # fmt: skip
SMALL = {**CONFIG, "num_attention_heads": 4, "attention_head_dim": 16, "num_layers": 3}
SCHEDULER = {
    "_class_name": "DDIMScheduler", "num_train_timesteps": 1000, "beta_schedule": "linear",
    "beta_start": 0.0001, "beta_end": 0.02, "prediction_type": "epsilon", "clip_sample": False,
    "set_alpha_to_one": False, "steps_offset": 1,
}  # fmt: skip
DENSE_TRAINING = DistillSection(
    batch=16, learning_rate=1e-3, warmup=50, ema_decay=0.995, null_share=0.1,
    losses=LossesSection(output=0, noise=1), weighting="none",
)  # fmt: skip
CALIBRATION = 256
"""Training images that the product ranks and repairs with."""
GRADIENTS = 8
"""Images of stock Taylor's gradients, as in bench/quality."""
CHECKPOINT_SECONDS = 60.0


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


class Study:
    """The inputs, and what is made of them in the work folder."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.data = args, args.data
        name = f"{fingerprint(args.data)}-{args.dense_seconds:g}{'-small' * args.small}"
        self.work = args.work / name
        self.work.mkdir(parents=True, exist_ok=True)

    @cached_property
    def train_set(self) -> CleanSet:
        """Training images, their labels, and the label that stands for none."""
        read = read_split(self.data, "train", self.args.train_images)
        return CleanSet(read.sample, read.conditions, read.origin, {LABELS: torch.tensor(CLASSES)})

    @cached_property
    def calibration(self) -> Path:
        path = self.work / "calibration.safetensors"
        if not path.exists():
            images, conditions = self.train_set.rows(torch.arange(self.args.calibration))
            CleanSet(images, conditions, "", self.train_set.null).save(path)
        return path

    @cached_property
    def dense(self) -> Model:
        folder = self.work / "dense"
        if not (folder / "facts.json").exists():
            train_dense(self, folder)
        return Model(DENSE, folder, (self.args.loop,))

    def model(self, name: str) -> Model:
        """A row's trained model."""
        return Model(name, self.row(name), (self.args.loop,))

    def row(self, name: str) -> Path:
        """The folder of a row."""
        return self.work / f"{name}-{self.args.seconds:g}"

    def cut(self, name: str) -> Model:
        """A row's model before the training."""
        out = self.work / f"cut-{name}"
        if not (out / "facts.json").exists():
            say(f"{name}: cutting")
            begin = time.process_time()
            facts = cut_stock(self, out) if name == STOCK else cut_ours(self, name, out)
            facts["cut_seconds"] = time.process_time() - begin
            write_text(out / "facts.json", json.dumps(facts))
        return Model(name, out, (self.args.loop,))


# Training by the clock.


def train_for(seconds: float, lesson: AllSteps, student: nn.Module, folder: Path) -> dict[str, Any]:
    """Train the student in place for so many seconds of processor time, checkpoints aside."""
    run = Run.start(lesson, student, TrainingSettings(lesson.options, folder))
    clock = folder / "seconds.json"
    seconds_at = json.loads(clock.read_text()) if clock.exists() else {}
    try:
        run.resume()
        gone = seconds_at[str(run.step)] if run.step else 0.0
        saved = gone
        while gone < seconds:
            if run.step:  # the rate of each step is that of its share of all steps
                steps = run.step + int((seconds - gone) * run.step / gone)
                run.options = run.options.model_copy(update={"steps": steps})
            begin = time.process_time()
            loss = [event.values["loss"] for event in one_step(run) if "loss" in event.values][-1]
            gone += time.process_time() - begin
            if gone - saved > CHECKPOINT_SECONDS:
                seconds_at[str(run.step)] = saved = gone
                write_text(clock, json.dumps(seconds_at))
                run.checkpoint()
                say(f"    step {run.step} of {run.options.steps}: loss {loss:.4f}")
    finally:
        run.close()
    result = run.finish()
    return {"steps": result.steps, "seconds": gone, "losses": result.losses[-20:]}


def train_dense(study: Study, folder: Path) -> None:
    """A pipeline's folder with a DiT of the training images: the moving average."""
    import diffusers

    say(f"training the dense model for {study.args.dense_seconds:g} s")
    torch.manual_seed(0)
    model = getattr(diffusers, CLASS_NAME)(**(SMALL if study.args.small else CONFIG))
    pair = ModelPair(denoiser_of(model, family_of(CLASS_NAME), SCHEDULER), model)
    lesson = AllSteps(pair, study.train_set, DENSE_TRAINING)
    facts = train_for(study.args.dense_seconds, lesson, model, study.work / "dense-training")
    model.save_pretrained(folder / "transformer")
    (folder / "scheduler").mkdir(exist_ok=True)
    write_text(folder / "scheduler" / "scheduler_config.json", json.dumps(SCHEDULER))
    index = {
        "_class_name": "DiTPipeline", "transformer": ["diffusers", CLASS_NAME],
        "scheduler": ["diffusers", "DDIMScheduler"],
    }  # fmt: skip
    write_text(folder / "model_index.json", json.dumps(index))
    write_text(folder / "facts.json", json.dumps(facts))


def train_row(study: Study, name: str) -> dict[str, Any]:
    """The row's model, distilled from the dense one, in its folder; what that took."""
    folder = study.row(name)
    if not (folder / "facts.json").exists():
        cut = study.cut(name)
        say(f"{name}: training for {study.args.seconds:g} s")
        student = cut.open().model
        student.requires_grad_(True)
        lesson = AllSteps(ModelPair(study.dense.open(), student), study.train_set, DistillSection())
        facts = train_for(study.args.seconds, lesson, student, folder / "training")
        save_compressed(student, study.dense.source, folder / "model", {})
        write_text(folder / "facts.json", json.dumps(facts))
    return json.loads((folder / "facts.json").read_text())


# The cuts.


def cut_ours(study: Study, name: str, out: Path) -> dict[str, Any]:
    """By the product, up to the repair."""
    few = {"passes": 2, "grid": 4, "curve_images": 2} if study.args.small else {}
    options: dict[str, Any] = {
        "prune": {
            "cut": CUTS[name], "ratio_of": "latency", "allocate": "latency", "importance": few
        },
        "distill": {"steps": 0, "aim": "all-steps"}, "loops": [],
        "data": {"source": str(study.calibration)}, "build": {"threads": 1},
        "quality": {"images": 4},
    }  # fmt: skip
    report = diffc.compile(
        str(study.dense.folder), ratio=study.args.ratio, target="ort-cpu", out=out, stop="distill",
        options=options, force=True, on_event=note,
    )  # fmt: skip
    units = Plan.read(out / "plan.json").units
    return {
        "kept": {unit.name: [unit.kept, unit.size] for unit in units if unit.kept < unit.size},
        "stages": {stage.name: stage.seconds for stage in report.stages},
    }


def note(event: diffc.runner.StageEvent) -> None:
    if event.kind == "finished":
        say(f"    {event.stage}")


def cut_stock(study: Study, out: Path) -> dict[str, Any]:
    """torch-pruning at the channel ratio whose engine is nearest to the time that is left."""
    dense, low, high = study.dense.open(), 0.0, 0.9
    images, conditions = study.train_set.rows(torch.arange(GRADIENTS))
    call = lambda x, t: dense.call({"sample": x, "timestep": t, **conditions})  # noqa: E731
    add_gradients(dense.model, dense.process, images, torch.Generator().manual_seed(0), call)
    example = {"hidden_states": images[:1], "timestep": torch.ones(1).long(),
               LABELS: conditions[LABELS][:1]}  # fmt: skip
    # positions are a buffer of the residual's width, which torch-pruning does not cut with it
    whole = [dense.model.pos_embed.proj, dense.model.proj_out_2]
    tried: dict[float, tuple[float, Path]] = {}
    for _ in range(study.args.tries):
        ratio = round((low + high) / 2, 3)
        model = cut_by_stock(dense.model, example, ratio, whole)
        folder = out / f"at-{ratio}"
        save_compressed(model, study.dense.source, folder, {"channel_ratio": ratio})
        timings = time_in_turn(study, [study.dense, Model(STOCK, folder, ())])
        left = timings.ratio(STOCK, DENSE).median
        say(f"    channel ratio {ratio}: {left:.3f} of the dense time")
        tried[ratio] = (abs(left - 1 + study.args.ratio), folder)
        low, high = (ratio, high) if left > 1 - study.args.ratio else (low, ratio)
    ratio = min(tried, key=lambda one: tried[one][0])
    (out / "model").symlink_to(tried[ratio][1].name)
    return {"channel_ratio": ratio}


# Figures.


def time_in_turn(study: Study, models: list[Model]) -> Timings:
    """An engine call of each, in turn; weights do not matter to time."""
    calls = {}
    for model in models:
        folder = study.work / "engines" / model.source.digest[:12]
        if not (folder / "engine.json").exists():
            onnx = onnx_of(model, study.work)
            drain(target("ort-cpu").build(onnx, BuildOptions(threads=1), folder))
        runner = target("ort-cpu").load(folder, threads=1)
        calls[model.label] = runner.bind(engine_inputs(read_info(folder), 1)).run
    rounds = study.args.rounds
    return drain(interleaved(calls, LatencyOptions(rounds=rounds, seconds=0.0)))


def images_of(study: Study, model: Model) -> Tensor:
    """(n, 1, 32, 32) in [-1, 1]; image i has the same noise and label in every row."""
    path = study.work / f"images-{model.source.digest[:12]}-{study.args.images}.safetensors"
    if not path.exists():
        say(f"{model.label}: {study.args.images} images")
        loop = ModelLoop(model.open(), model.loop(study.args.loop))
        images = drain(sample_images(loop, study.args.images, batch=64)).clamp(-1, 1)
        save_whole({"images": images.half()}, path)
    return load_file(path)["images"].float()


def sizes(denoiser: Denoiser) -> dict[str, float]:
    """MACs of a call, and parameters."""
    inputs = denoiser.examples()
    return {
        "macs": macs_of_call(lambda: denoiser.call(inputs)),
        "parameters": sum(value.numel() for value in denoiser.model.parameters()),
    }


class Figures:
    """What rows are measured by."""

    def __init__(self, study: Study) -> None:
        args, self.study = study.args, study
        self.judge, self.right = judge_of(
            study.data, args.work, args.train_images, args.epochs, study.dense
        )
        self.held_out = HeldOut(study.dense.open(), study.data)
        self.draws: dict[str, tuple[float, np.ndarray]] = {}

    def of(self, model: Model) -> dict[str, Any]:
        images, denoiser = images_of(self.study, model), model.open()
        value, draws = self.draws[model.label] = self.judge.distances(images)
        pairs = SSIM.of_pairs(images_of(self.study, self.study.dense), images)
        return {
            "frechet": {"value": value, "se": float(np.std(draws, ddof=1)), "n": len(images)},
            "ssim": estimate(pairs).as_dict(),
            "held_out": self.held_out.error(denoiser.model),
            **sizes(denoiser),
        }

    def further(self, name: str, other: str) -> dict[str, float]:
        """How much further a row is than another, and the standard error of that."""
        (value, draws), (theirs, their_draws) = self.draws[name], self.draws[other]
        return {"value": value - theirs, "se": float(np.std(draws - their_draws, ddof=1))}


def study_all(study: Study) -> dict[str, Any]:
    args = study.args
    results: dict[str, Any] = {
        "date": date.today().isoformat(),
        "environment": read_environment().model_dump(mode="json"),
        "how": {
            "config": SMALL if args.small else CONFIG, "ratio": args.ratio, "images": args.images,
            "loop": args.loop, "target": "ort-cpu", "threads": 1, "rounds": args.rounds,
            "dense_seconds": args.dense_seconds, "seconds": args.seconds,
            "dense_training": DENSE_TRAINING.model_dump(mode="json"),
            "training": DistillSection().model_dump(mode="json"),
            "train_images": args.train_images, "epochs": args.epochs,
        },
        "rows": {}, "further": {}, "complete": False,
    }  # fmt: skip
    models = [study.dense]
    figures = Figures(study)
    results["how"] |= {"classifier_accuracy": figures.right, "test_images": figures.judge.real.n}
    training = json.loads((study.dense.folder / "facts.json").read_text())
    results["rows"][DENSE] = {**figures.of(study.dense), "training": training}
    for name in ROWS:
        training, cut = train_row(study, name), study.cut(name)
        models.append(study.model(name))
        facts = json.loads((cut.folder / "facts.json").read_text())
        results["rows"][name] = {**figures.of(models[-1]), "training": training, "cut": facts}
        results["rows"][name]["held_out_before_training"] = figures.held_out.error(cut.open().model)
        if name != BOTH:
            results["further"][name] = figures.further(name, BOTH)
        add_latencies(results, time_in_turn(study, models))
        results["complete"] = len(models) == 1 + len(ROWS)
        write_text(args.out, json.dumps(results, indent=1) + "\n")
        say(f"{name}: {results['rows'][name]['frechet']}")
    return results


def add_latencies(results: dict[str, Any], timings: Timings) -> None:
    results["load"] = os.getloadavg()[0]
    for name, row in results["rows"].items():
        left = timings.ratio(name, DENSE)
        row["latency_ms"] = timings.percentiles_ms(name)["p50"]
        row["latency_left"] = {"median": left.median, "ci95": list(left.ci95), "pairs": left.pairs}


def table(results: dict[str, Any]) -> str:
    """The rows as Markdown."""
    lines = [
        "| row | latency left | ms | MACs | parameters | distance (se) | SSIM | held out | steps |",
        "|---|" + "--:|" * 8,
    ]
    for name, row in results["rows"].items():
        left, distance = row["latency_left"], row["frechet"]
        low, high = left["ci95"]
        lines.append(
            f"| {name} | {left['median']:.3f} [{low:.3f}, {high:.3f}] | {row['latency_ms']:.2f} | "
            f"{row['macs'] / 1e6:.1f} M | {row['parameters'] / 1e6:.2f} M | "
            f"{distance['value']:.2f} ({distance['se']:.2f}) | {row['ssim']['mean']:.3f} | "
            f"{row['held_out']:.4f} | {row['training']['steps']} |"
        )
    for name, one in results["further"].items():
        lines.append(f"\n{name} is {one['value']:+.2f} ({one['se']:.2f}) further than {BOTH}")
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="see bench/quality/judge.py")
    parser.add_argument("--dense-seconds", type=float, default=900.0)
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--loop", default="ddim:20")
    parser.add_argument("--ratio", type=float, default=RATIO, help="of the time that goes")
    parser.add_argument("--rounds", type=int, default=60, help="of timing every engine")
    parser.add_argument("--tries", type=int, default=5, help="of torch-pruning's channel ratio")
    parser.add_argument("--train-images", type=int, default=60_000)
    parser.add_argument("--calibration", type=int, default=CALIBRATION)
    parser.add_argument("--epochs", type=int, default=3, help="of the classifier's training")
    parser.add_argument("--small", action="store_true", help="a tiny network, a few images")
    parser.add_argument("--work", type=Path, default=Path("build/transformer"))
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    if args.small:
        args.images, args.train_images, args.epochs, args.rounds = 16, 256, 1, 3
        args.loop, args.calibration, args.ratio, args.tries = "ddim:2", 16, 0.3, 2
    return args


def main() -> None:
    """See the top."""
    args = arguments()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    os.environ["DIFFC_CACHE"] = str((args.work / "cache").resolve())
    print(table(study_all(Study(args))))


if __name__ == "__main__":
    main()
