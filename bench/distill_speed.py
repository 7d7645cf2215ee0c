"""Images per second of the distillation step: diffc's loop against a plain eager fp32 one.

    python -m bench.distill_speed [--model demo] [--ratio 0.5] [--rounds 5] [--steps 4]
                                  [--batch 16]
                                  [--compile]    one loop more: with ``distill.compile``

All train the same pruned student from the same dense teacher on the same rows: teacher forward,
student forward and backward, AdamW, moving average. The plain loop is what one writes first: fp32,
the output loss, default layouts, PyTorch's default AdamW, diffusers' default EMAModel. diffc's loop
has the same loss; a further one has the recipe's, features included, which is more work. On a GPU
where there is one. Compiling happens in the warm-up and is told apart (seconds until the second
step is done). Rounds alternate, so that another process's load falls on both. The result goes to
bench/results/distill_speed.json with the machine's load average before and after, since a busy
machine makes both slower.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from torch import nn

from diffc.data.clean import CleanSet
from diffc.data.precision import best_device
from diffc.distill.all_steps import ModelPair
from diffc.distill.blocks import kept_channels
from diffc.distill.draw import draw_batch
from diffc.distill.losses import Kept
from diffc.distill.setup import to_device
from diffc.distill.train import distill
from diffc.measure.environment import read_environment
from diffc.models.denoiser import denoiser_of
from diffc.models.diffusion import Process, process_from_scheduler
from diffc.models.families import family as family_of
from diffc.models.families.base import Family
from diffc.models.load import load_denoiser
from diffc.models.source import find_source
from diffc.prune.plan import best_channels
from diffc.prune.surgery import cut
from diffc.recipe import DistillSection, LossesSection, recipe_file

COMPILED, RECIPE = "diffc, compiled", "diffc, the recipe's losses"
LOSSES = LossesSection(**recipe_file("unet2d").options["distill"]["losses"])
RESULT = Path(__file__).parent / "results" / "distill_speed.json"


def uniform_student(
    teacher: nn.Module, family: Family, config, ratio: float
) -> tuple[nn.Module, Kept]:
    """Every group of channels cut by the same share, so that about ``ratio`` of the MACs goes.

    Also which channels of each block are left, for the feature loss.
    """
    import copy

    import numpy as np

    student = copy.deepcopy(teacher)
    shape = next(s.shape for s in family.specs(config) if s.kind == "sample")
    inputs = {"sample": torch.randn(1, *shape), "timestep": torch.tensor([1])}
    keep = {}
    for group in family.groups(student, inputs):
        kept = int(group.size * (1 - ratio) ** 0.5) // group.runs * group.runs
        if group.kind == "channels" and kept:
            keep[group.name] = best_channels(np.arange(group.size, 0.0, -1), kept, group.runs)
    cut(student, family.groups(student, inputs), keep)
    return student, kept_channels(teacher, family, family.groups(teacher, inputs), keep)


def plain_steps(
    teacher: nn.Module,
    student: nn.Module,
    family: Family,
    clean: CleanSet,
    process: Process,
    options: DistillSection,
) -> Iterator[None]:
    """The loop one writes first; yields after each step, without end."""
    device = best_device()
    teacher.to(device)
    student.to(device).requires_grad_(True)
    optimizer = torch.optim.AdamW(student.parameters(), lr=options.learning_rate)
    ema = EMAModel(student.parameters(), decay=options.ema_decay)
    step = 0
    even = torch.full((len(process),), 1 / len(process), dtype=torch.float64)
    while True:
        batch = to_device(draw_batch(clean, options, even, step, range(options.batch)), device)
        x = process.noised(batch.clean, batch.noise, batch.t)
        inputs = {"sample": x, "timestep": process.time(batch.t)}
        with torch.no_grad():
            target = family.call(teacher, inputs)
        loss = (family.call(student, inputs) - target).square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), options.clip_grad)
        optimizer.step()
        optimizer.zero_grad()
        ema.step(student.parameters())
        loss.item()
        step += 1
        yield


def timed(work: Iterator[object], steps: int, batch: int) -> dict[str, float]:
    """Images per second over ``steps`` steps, by the wall's clock and by this process's CPU time.

    On a busy machine only the second says much; with one thread it is what a quiet core would do.
    """
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        next(work)
    images = steps * batch
    return {
        "wall": images / (time.perf_counter() - wall),
        "cpu": images / (time.process_time() - cpu),
    }


def summary(speeds: dict[str, list[dict[str, float]]], clock: str) -> dict[str, object]:
    """Of each loop, the median; of all but the plain one, its ratio to that, round by round."""
    plain = [speed[clock] for speed in speeds["plain"]]
    found: dict[str, object] = {"plain": {"images_per_s": statistics.median(plain)}}
    for name, rounds in speeds.items():
        if name != "plain":
            ratios = [speed[clock] / base for speed, base in zip(rounds, plain, strict=True)]
            found[name] = {
                "images_per_s": statistics.median(speed[clock] for speed in rounds),
                "speedup": statistics.median(ratios),
                "speedup_range": [min(ratios), max(ratios)],
            }
    return found


def warm_up(loop: Iterator[object]) -> float:
    """Seconds of two steps: primitives and kernels are made, memory is taken."""
    start = time.perf_counter()
    for _ in range(2):
        next(loop)
    return time.perf_counter() - start


def device_name() -> str:
    """The GPU's name, or ``cpu``."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def main() -> None:
    """See the top."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--batch", type=int, default=DistillSection().batch)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    source = find_source(args.model)
    family = family_of(source.class_name)
    config_file = source.folder / "scheduler" / "scheduler_config.json"
    process = process_from_scheduler(json.loads(config_file.read_text("utf-8")))
    options = DistillSection(steps=100_000, batch=args.batch, checkpoint_every=100_000)
    shape = next(s.shape for s in family.specs(source.config) if s.kind == "sample")
    clean = CleanSet(torch.rand(64, *shape) * 2 - 1, {}, "random")
    load_before = os.getloadavg()[0]

    def diffcs(**changes: object) -> Iterator[object]:
        teacher = load_denoiser(source).requires_grad_(False)
        student, kept = uniform_student(teacher, family, source.config, args.ratio)
        own = options.model_copy(update=changes)
        pair = ModelPair(denoiser_of(teacher, family, source.scheduler), student, kept)
        return distill(pair, clean, own, Path(folder))

    with tempfile.TemporaryDirectory() as folder:
        teacher = load_denoiser(source).requires_grad_(False)
        student, _ = uniform_student(teacher, family, source.config, args.ratio)
        loops = {
            "plain": plain_steps(teacher, student, family, clean, process, options),
            "diffc": diffcs(),
            RECIPE: diffcs(losses=LOSSES),
        }
        if args.compile:
            loops[COMPILED] = diffcs(compile=True)
        speeds: dict[str, list[dict[str, float]]] = {name: [] for name in loops}
        warmup = {name: warm_up(loop) for name, loop in loops.items()}
        for _ in range(args.rounds):
            for name, loop in loops.items():
                speeds[name].append(timed(loop, args.steps, args.batch))
    result = {
        "model": source.name,
        "ratio": args.ratio,
        "batch": args.batch,
        "steps_per_round": args.steps,
        "wall": summary(speeds, "wall"),
        "cpu": summary(speeds, "cpu"),
        "rounds": speeds,
        "warmup_seconds": warmup,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "environment": read_environment().model_dump(mode="json"),
        "device": device_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load_average": [load_before, os.getloadavg()[0]],
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps({k: result[k] for k in ("wall", "cpu", "load_average")}, indent=1))


if __name__ == "__main__":
    main()
