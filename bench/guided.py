"""Guidance carried: demo-text's 2 x 50 calls beside students of one or two calls.

    python -m bench.guided --data /usr/share/datasets/fashion-mnist
    python -m bench.guided --data DATA --product      what demo-text's recipe makes, beside dense
    python -m bench.guided --data DATA --small        a few images after a few steps: a test

Two trainings of the product, at half the MACs: `compressed` learns all noise levels, and is guided
as the dense model is; each `student` then learns one loop on the dense model's guided trajectories,
and needs one call a step, without guidance. They have the values of ``TRAINING``, not the recipe's.

    seen       a classifier of colour and thing, trained here on Fashion-MNIST's training images in
               the colours of scripts/train_demo_text.py; `obeys` is the share of a row's images in
               which it sees the prompt's colour and thing
    prompts    all 80 of colour and thing; half of the images in the wordings that the runs had
               (prompts.txt), half in others
    distance   Frechet on the classifier's features: to the test images in random colours, and to
               the dense guided loop's images of 50 steps from the same noise; bootstrap errors
    cost       the loop's own time on the engine, without the decoder, in guided steps of the dense
               model's reference loop times two: in calls of it. All rows in turn

Images are made by torch in float32, and kept in --work, so that a stopped run goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import diffc
from bench.frontier import clock
from bench.frontier.rows import Model
from bench.quality.judge import RESAMPLES, Classifier
from bench.quality.study import fingerprint, save_whole
from diffc.data.latents import decode_latents
from diffc.data.prompts import encode_prompts, read_prompts
from diffc.data.randomness import keyed_generator
from diffc.data.synthetic import Conditioning
from diffc.measure.environment import read_environment
from diffc.measure.latency import LatencyOptions, interleaved
from diffc.measure.loop import LoopOptions, TimedLoop
from diffc.measure.quality.features import statistics
from diffc.measure.quality.frechet import frechet_distance
from diffc.measure.quality.ssim import METRIC as SSIM
from diffc.measure.samples import ModelLoop, sample_images
from diffc.models.diffusion import served_settings
from diffc.models.shipped import shipped_prompts
from diffc.models.source import find_source
from diffc_export.events import drain
from diffc_export.targets import target
from diffc_runtime.files import write_text
from scripts import train_demo_text as made

RESULTS = Path(__file__).parent / "results"
RESULT, PRODUCT = RESULTS / "guided.json", RESULTS / "guided-product.json"
NAME, RATIO, SCALE = "demo-text", 0.5, 3
REFERENCE = f"ddim:50:{SCALE}"
"""The loop that the others stand beside; its calls are the unit of cost."""
DENSE, COMPRESSED = "dense", "compressed"
BOTH = tuple(f"{loop}:{SCALE}" for loop in ("ddim:20", "ddim:4", "ddim:2", "ddim:1", "dpm++:8"))
COLOURS = len(made.COLOURS)
TRAINING = {"steps": 300, "batch": 32, "learning_rate": 4e-4, "warmup": 20, "quality_every": 0}
LOOP_TRAINING = {"steps": 1000, "trajectories": 2048, "teacher_steps": 12}
"""Of the models that are trained here."""


# What is drawn, and who judges it.


@dataclass(frozen=True)
class Wanted:
    """The prompts of the images, and what they name.

    Attributes:
        texts: One for each image.
        colours, things: (N,) the numbers of what they name.
        known: (N,) whether the runs had the wording.
    """

    texts: list[str]
    colours: Tensor
    things: Tensor
    known: Tensor

    @classmethod
    def of(cls, n: int) -> Wanted:
        """n prompts: each of prompts.txt, then each in other words, and so on."""
        path = shipped_prompts(NAME)
        assert path is not None
        ours = [(text, *meaning(text)) for text in read_prompts(path)]
        others = [(reworded(text, c, t), c, t) for text, c, t in ours]
        pool = [*((*one, True) for one in ours), *((*one, False) for one in others)]
        rows = [pool[i % len(pool)] for i in range(n)]
        texts, *facts = zip(*rows, strict=True)
        return cls(list(texts), *(torch.tensor(fact) for fact in facts))


def meaning(text: str) -> tuple[int, int]:
    """The colour and the thing that a prompt names."""
    colour = next(i for i, name in enumerate(made.COLOURS) if f" {name} " in f" {text} ")
    return colour, _noun(text)[1]


def _noun(text: str) -> tuple[str, int]:
    """The noun of a prompt, and the thing that it means: 'ankle boot', which also holds 'boot'."""
    nouns = [(noun, i) for i, pair in enumerate(made.THINGS) for noun in pair]
    return max((one for one in nouns if f" {one[0]} " in f" {text} "), key=lambda one: len(one[0]))


def reworded(text: str, colour: int, thing: int) -> str:
    """The same in another wording, and with the thing's other noun."""
    name, ours = list(made.COLOURS)[colour], _noun(text)[0]
    noun = next(noun for noun in made.THINGS[thing] if noun != ours)
    wordings = [w.format(c=name, t=noun) for w in (made.WORDINGS[0], made.WORDINGS[4])]
    return made.with_article(wordings[(colour + thing) % 2])


class Judge:
    """The classifier: logits of the colours, then of the things; its features."""

    def __init__(self, data: Path, work: Path, images: int, epochs: int) -> None:
        made.DATA = data
        torch.manual_seed(0)
        self.network = Classifier(3, COLOURS + len(made.THINGS))
        path = work / f"classifier-{fingerprint(data)}-{images}-{epochs}.safetensors"
        if not path.exists():
            grey, labels = made.read_images("train")
            fit(self.network, grey[:images], labels[:images], epochs)
            save_whole(self.network.state_dict(), path)
        self.network.load_state_dict(load_file(path))
        self.network.eval()
        grey, things = made.read_images("t10k")
        n = min(images, len(grey))
        colours = torch.randint(COLOURS, (n,), generator=keyed_generator(2))
        test = made.coloured(grey[:n], colours)
        self.right = float(self.obeys(test, colours, things[:n]).float().mean())
        self.test = self.features(test)

    @torch.no_grad()
    def obeys(self, images: Tensor, colours: Tensor, things: Tensor) -> Tensor:
        """(N,) whether it sees these colours and things."""
        logits = torch.cat([self.network(part) for part in images.split(256)])
        seen = logits[:, :COLOURS].argmax(1), logits[:, COLOURS:].argmax(1)
        return (seen[0] == colours) & (seen[1] == things)

    @torch.no_grad()
    def features(self, images: Tensor) -> Any:
        """(N, 64) float64."""
        parts = [self.network.features(part) for part in images.split(256)]
        return torch.cat(parts).double().numpy()


def fit(network: nn.Module, grey: Tensor, things: Tensor, epochs: int) -> None:
    """Both cross-entropies, random colours and flips, AdamW, cosine."""
    batch = 128
    steps = max(1, epochs * len(grey) // batch)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    network.train()
    for step in range(steps):
        random = keyed_generator(0, step)
        rows = torch.randint(len(grey), (batch,), generator=random)
        colours = torch.randint(COLOURS, (batch,), generator=random)
        flip = torch.rand(batch, 1, 1, 1, generator=random) < 0.5
        images = made.coloured(grey[rows], colours)
        logits = network(torch.where(flip, images.flip(3), images))
        loss = nn.functional.cross_entropy(logits[:, :COLOURS], colours)
        loss = loss + nn.functional.cross_entropy(logits[:, COLOURS:], things[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def frechet(features: Any, others: Any) -> dict[str, float]:
    """The distance, and its standard error over bootstrap resamples of the first set."""
    theirs, random = statistics(others, "classifier"), np.random.default_rng(0)

    def distance(rows: Any) -> float:
        return frechet_distance(statistics(rows, "classifier"), theirs)

    draws = [distance(features[random.integers(len(features), size=len(features))])
             for _ in range(RESAMPLES)]  # fmt: skip
    return {"value": distance(features), "se": float(np.std(draws, ddof=1))}


# The models, and their images.


def compile_one(args: argparse.Namespace, name: str, loops: Sequence[str], aim: str) -> Path:
    """A run of the product up to OUT/model; what is there is reused."""
    out = args.work / name
    distill: dict[str, Any] = {**TRAINING, "aim": aim, "loop": LOOP_TRAINING}
    if args.small:
        distill |= {"steps": 2, "batch": 2, "warmup": 0}
        distill["loop"] = {"steps": 2, "batch": 2, "trajectories": 2, "teacher_steps": 2}
    options: dict[str, Any] = {
        "loops": list(loops), "quality": {"images": 4}, "distill": distill,
        "data": {"images": 8, "steps": 2} if args.small else {},
    }  # fmt: skip
    diffc.compile(
        NAME, ratio=RATIO, out=out, stop="distill", on_event=note, force=True, options=options
    )
    return out


def note(event: diffc.runner.StageEvent) -> None:
    if event.kind == "finished":
        print(time.strftime("%H:%M:%S"), event.stage, flush=True)


def models_of(args: argparse.Namespace) -> list[Model]:
    """The dense model, the compressed one, and the students."""
    every = compile_one(args, "compressed", [f"ddim:20:{SCALE}"], "all-steps")
    models = [
        Model(DENSE, Path(find_source(NAME).folder), (REFERENCE, *BOTH)),
        Model(COMPRESSED, every, BOTH),
    ]
    for steps in (2, 1):
        out = compile_one(args, f"student-{steps}", [f"ddim:{steps}:{SCALE}"], "loop")
        models.append(Model(f"{COMPRESSED}, student of ddim:{steps}", out, (f"ddim:{steps}",)))
    return models


def product_of(args: argparse.Namespace) -> list[Model]:
    """The dense model, and what `diffc compile demo-text --ratio 0.5` trains by its recipe."""
    out = args.work / "product"
    options: dict[str, Any] = {"quality": {"images": 4}}
    if args.small:
        few = {"steps": 2, "batch": 2, "trajectories": 2, "teacher_steps": 2}
        options |= {"data": {"images": 8, "steps": 2}}
        options["distill"] = {"steps": 2, "batch": 2, "loop": few}
    report = diffc.compile(
        NAME, ratio=RATIO, out=out, stop="distill", on_event=note, force=True, options=options
    )
    assert report.loop_distillation is not None
    dense = Model(DENSE, Path(find_source(NAME).folder), (REFERENCE, f"ddim:20:{SCALE}"))
    return [dense, Model("the recipe's product", out, tuple(report.loop_distillation["loops"]))]


class Images:
    """Every row's images from the same noise, in the folder of the benchmark's work."""

    def __init__(self, work: Path, dense: Model, wanted: Wanted) -> None:
        self.work, self.dense, self.wanted = work / "images", dense, wanted
        self.work.mkdir(parents=True, exist_ok=True)

    @cached_property
    def given(self) -> Conditioning:
        """The prompts as the dense pipeline encodes them."""
        texts = list(dict.fromkeys(self.wanted.texts))
        specs = self.dense.open().specs
        rows = drain(encode_prompts(self.dense.source, specs, texts))
        places = torch.tensor([texts.index(text) for text in self.wanted.texts])
        return Conditioning({name: value[places] for name, value in rows.rows.items()}, rows.null)

    def of(self, model: Model, loop: str) -> Tensor:
        """(n, 3, 32, 32) in [-1, 1]."""
        n = len(self.wanted.texts)
        path = self.work / f"{model.source.digest[:12]}-{loop}-0-{n}.safetensors"
        if not path.exists():
            start = time.monotonic()
            one = ModelLoop(model.open(), model.loop(loop))
            latents = drain(sample_images(one, n, self.given, batch=80))
            images = drain(decode_latents(self.dense.source, latents)).clamp(-1, 1)
            save_whole({"images": images.half()}, path)
            print(f"{model.key(loop)}: {time.monotonic() - start:.0f} s", flush=True)
        return load_file(path)["images"].float()


def row(model: Model, loop: str, images: Images, judge: Judge, others: Any) -> dict[str, Any]:
    """The figures of one row. others: features of the reference loop's images."""
    ours, wanted = images.of(model, loop), images.wanted
    obeys = judge.obeys(ours, wanted.colours, wanted.things).double()
    features = judge.features(ours)
    best = images.of(images.dense, REFERENCE)
    return {
        "model": model.label,
        "loop": loop,
        "calls": (model.loop(loop).steps or 1) * (2 if model.loop(loop).guidance != 1 else 1),
        "obeys": float(obeys.mean()),
        "obeys_se": float(obeys.std() / len(obeys) ** 0.5),
        "obeys_known": float(obeys[wanted.known].mean()),
        "obeys_reworded": float(obeys[~wanted.known].mean()),
        "to_test": frechet(features, judge.test),
        "to_dense": frechet(features, others),
        "ssim": float(np.mean(SSIM.of_pairs(best, ours))),
    }


def costs(models: Sequence[Model], args: argparse.Namespace) -> dict[str, Any]:
    """Row -> milliseconds of its loop, and its cost in calls of the dense reference loop."""
    calls: dict[str, Any] = {}
    for model in models:
        runner = target(args.target).load(clock.engine(model, args.work, args.work, args.target))
        for text in model.loops:
            loop = model.loop(text)
            config = loop.config({**served_settings(model.source.scheduler)})
            options = LoopOptions(
                steps=loop.steps or 1, scheduler=loop.sampler, guidance=loop.guidance or 1.0,
                settings={"scheduler": dict(config)}, latent=True,
            )  # fmt: skip
            calls[model.key(text)] = TimedLoop(runner, options)
    unit = models[0].key(REFERENCE)
    timing = LatencyOptions(rounds=args.rounds, seconds=0.0, most_seconds=1800.0,
                            warmup_seconds=5.0)  # fmt: skip
    timings = drain(interleaved(calls, timing))
    ratios = {name: timings.ratio(name, unit) for name in calls}
    return {
        name: {
            "ms": timings.percentiles_ms(name)["p50"],
            "cost": 100 * one.median,
            "cost_ci95": [100 * end for end in one.ci95],
        }
        for name, one in ratios.items()
    }


# What it says.


def table(study: dict[str, Any]) -> str:
    """The rows as Markdown."""
    lines = ["| model | loop | calls | cost in dense calls | times | obeys | in other words "
             "| to the dense loop (se) | to test images (se) | SSIM |",
             "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|"]  # fmt: skip
    for one in study["rows"]:
        lines.append(
            f"| {one['model']} | {one['loop']} | {one['calls']} | {one['cost']:.2f} | "
            f"{100 / one['cost']:.1f} | {100 * one['obeys']:.1f} % | "
            f"{100 * one['obeys_reworded']:.1f} % | {_distance(one['to_dense'])} | "
            f"{_distance(one['to_test'])} | {one['ssim']:.3f} |"
        )
    return "\n".join(lines)


def _distance(one: dict[str, float]) -> str:
    return f"{one['value']:.2f} ({one['se']:.2f})"


def sheet(models: Sequence[Model], images: Images, path: Path) -> None:
    """Sixteen prompts, a line for each row of the table."""
    from PIL import Image

    columns = range(0, min(80, len(images.wanted.texts)), 5)
    lines = []
    for model in models:
        for loop in model.loops:
            some = images.of(model, loop)[list(columns)]
            pixels = ((some + 1) * 127.5).round().clamp(0, 255).byte().numpy()
            lines.append(np.concatenate(list(pixels.transpose(0, 2, 3, 1)), 1))
    Image.fromarray(np.concatenate(lines, 0)).save(path, optimize=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="Fashion-MNIST's four files")
    parser.add_argument("--images", type=int, default=1040)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--target", default="ort-cpu")
    parser.add_argument("--train-images", type=int, default=60_000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--product", action="store_true", help="what the recipe makes, alone")
    parser.add_argument("--small", action="store_true", help="a few images after a few steps")
    parser.add_argument("--work", type=Path, default=Path("build/guided"))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.out = args.out or (PRODUCT if args.product else RESULT)
    if args.small:
        args.images, args.train_images, args.epochs, args.rounds = 16, 256, 1, 3
    return args


def main() -> None:
    """See the top."""
    args = arguments()
    args.work.mkdir(parents=True, exist_ok=True)
    models = product_of(args) if args.product else models_of(args)
    judge = Judge(args.data, args.work, args.train_images, args.epochs)
    images = Images(args.work, models[0], Wanted.of(args.images))
    others = judge.features(images.of(models[0], REFERENCE))
    rows = {
        model.key(loop): row(model, loop, images, judge, others)
        for model in models
        for loop in model.loops
    }
    timed = costs(models, args)
    study = {
        "date": date.today().isoformat(), "ratio": RATIO, "images": args.images,
        "target": args.target, "classifier_accuracy": judge.right,
        "environment": read_environment().model_dump(mode="json"),
        "rows": [{**one, **timed[name]} for name, one in rows.items()],
    }  # fmt: skip
    write_text(args.out, json.dumps(study, indent=1) + "\n")
    sheet(models, images, args.out.with_suffix(".png"))
    print(table(study))


if __name__ == "__main__":
    main()
