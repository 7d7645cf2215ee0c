"""Training: the dense model where nobody trained one, and the rows."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import diffc
from bench.quality.rows import PLAIN, SCRATCH, Row
from bench.quality.study import OutOfTime, Study
from bench.stock_taylor import add_gradients, macs, stock_at_macs
from diffc.distill.all_steps import AllSteps, ModelPair
from diffc.distill.blocks import kept_channels
from diffc.distill.run import Run, TrainingSettings
from diffc.distill.train import one_step
from diffc.models.denoiser import denoiser_of
from diffc.models.families import family as family_of
from diffc.models.families.examples import example_inputs
from diffc.models.load import load_denoiser
from diffc.models.save import save_compressed
from diffc.models.source import find_source
from diffc.prune.plan import Plan
from diffc.recipe import DistillSection
from diffc_runtime.files import write_text

CALIBRATION = 256
CHECKPOINT_SECONDS = 180.0  # of training are lost at most when the study is killed


def cifar_unet() -> nn.Module:
    """Ho et al. 2020's network for CIFAR-10, 35.7 M parameters, with new weights."""
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=32, in_channels=3, out_channels=3, layers_per_block=2, downsample_padding=0,
        block_out_channels=(128, 256, 256, 256), norm_num_groups=32, norm_eps=1e-6,
        attention_head_dim=None, flip_sin_to_cos=False, freq_shift=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip


def train_dense(study: Study, folder: Path) -> None:
    """A DDPM of the training images: Ho et al.'s recipe but for the step count and the cosine."""
    from diffusers import DDPMPipeline, DDPMScheduler

    torch.manual_seed(0)
    model, scheduler = cifar_unet(), DDPMScheduler()
    steps = study.args.dense_steps
    options = DistillSection(
        steps=steps, batch=study.args.dense_batch, learning_rate=4e-4,
        warmup=min(1000, steps // 10), ema_decay=0.9995, timesteps="uniform",
        **PLAIN,
    )  # fmt: skip
    config = {**scheduler.config, "_class_name": "DDPMScheduler"}
    pair = ModelPair(denoiser_of(model, family_of("UNet2DModel"), config), model)
    for _ in training(study, pair, options, study.work / "dense-training"):
        pass
    DDPMPipeline(model.cpu().to(memory_format=torch.contiguous_format), scheduler).save_pretrained(
        folder
    )


def training(
    study: Study, pair: ModelPair, options: DistillSection, folder: Path, points: int = 4
) -> Iterator[int]:
    """Train the student; yields each of ``points`` - 1 steps on the way, evenly spread, whose
    checkpoint is on disk. At the end of the time a checkpoint is written, then OutOfTime raised."""
    lesson = AllSteps(pair, study.images, options)
    run = Run.start(lesson, pair.student, TrainingSettings(options, folder))
    every = max(1, options.steps // points)
    try:
        for note in run.resume():
            print(f"{time.strftime('%H:%M:%S')}    {note}", flush=True)
        if run.step and run.step % every == 0 and run.step < options.steps:
            yield run.step  # stopped before what is done at this point was done
        yield from _steps(study, run, every)
    finally:
        run.close()
    run.finish()


def _steps(study: Study, run: Run, every: int) -> Iterator[int]:
    """Until all are done. The clock decides when a checkpoint is due: steps take milliseconds on
    one machine and a minute on another."""
    saved = shown = time.monotonic()
    while run.step < run.options.steps:
        for event in one_step(run):
            if time.monotonic() - shown > 30:
                shown = time.monotonic()
                said = ", ".join(f"{name} {value:.4g}" for name, value in event.values.items())
                print(f"{time.strftime('%H:%M:%S')}    step {run.step}: {said}", flush=True)
        at_point = run.step % every == 0 or run.step == run.options.steps
        is_over = study.is_over()  # asked once: no stop without its checkpoint
        if at_point or is_over or time.monotonic() - saved > CHECKPOINT_SECONDS:
            run.checkpoint()
            saved = time.monotonic()
        if is_over:
            raise OutOfTime
        if at_point and run.step < run.options.steps:
            yield run.step


def pruned(study: Study, row: Row) -> nn.Module:
    """The row's student before training."""
    out = study.work / "pruned" / row.cut
    model = out / ("model" if row.repaired else "pruned")
    if not (model / "pruning.json").exists():
        print(f"{time.strftime('%H:%M:%S')}    pruning: {row.cut}", flush=True)
        (prune_stock if row.prune is None else prune_by_diffc)(study, row, out)
    student = load_denoiser(find_source(str(model)))
    if row.name == SCRATCH:
        torch.manual_seed(0)
        for module in student.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    return student


def prune_by_diffc(study: Study, row: Row, out: Path) -> None:
    """On the first training images, as every row."""
    data = study.work / "calibration.npz"
    if not data.exists():
        np.savez(data, x=study.images.sample[:CALIBRATION].numpy())
    options = {
        "prune": {**row.prune, "importance": {**row.prune["importance"], **_ranking(study)}},
        "data": {"source": str(data)},
        "distill": {"steps": 0, "aim": "all-steps"},
        "loops": [],
        # the study judges by images of its own
        "quality": {"images": 4},
        "reference_loop": "deterministic:2",
    }
    stop = "distill" if row.repaired else "prune"
    diffc.compile(
        str(study.dense_folder), ratio=study.args.ratio, out=out, stop=stop, options=options
    )


def _ranking(study: Study) -> dict:
    """The ranking's own numbers, unless the study is a try."""
    count = study.args.passes
    few = {"grid": 2, "curve_images": 2, "branch_rows": 2}
    return {} if count is None else {"passes": count, **few}


def prune_stock(study: Study, row: Row, out: Path) -> None:
    dense = load_denoiser(study.source)
    generator = torch.Generator().manual_seed(0)
    add_gradients(dense, study.process, study.images.sample[:8], generator)
    example = torch.zeros(1, *study.images.sample.shape[1:])
    model, ratio = stock_at_macs(dense, example, 1 - study.args.ratio)
    save_compressed(model, study.source, out / "pruned", {"channel_ratio": ratio})


def run_row(study: Study, row: Row) -> dict:
    """Train and measure one row; its curve grows on disk as it goes."""
    folder = study.work / "training" / row.name.replace(" ", "-").replace(",", "")
    if (folder / "row.json").exists():
        return json.loads((folder / "row.json").read_text())
    steps = max(4, int(study.args.steps * row.share) // 4 * 4)
    options = DistillSection(**{"steps": steps, "batch": study.args.batch, **row.train})
    curve_file = folder / "curve.json"
    curve = json.loads(curve_file.read_text()) if curve_file.exists() else {}
    teacher, student = load_denoiser(study.source), pruned(study, row)
    few, start = study.args.curve_samples, time.monotonic()
    kept = kept_by(study, row, teacher) if options.losses.features else None
    family = family_of(study.source.class_name)
    pair = ModelPair(denoiser_of(teacher, family, study.source.scheduler), student, kept)
    for step in training(study, pair, options, folder):
        if str(step) not in curve:
            probe = averaged(pruned(study, row), folder, step)
            images = study.judge.samples(probe, few)
            curve[str(step)] = study.judge.figures(images, study.dense_samples)
            write_text(curve_file, json.dumps(curve))
    images = study.judge.samples(student, study.args.samples)
    curve[str(steps)] = study.judge.figures(images[:few], study.dense_samples)
    save_compressed(student, study.source, folder / "model", {})
    found = {
        "steps": steps,
        "learning_rate": options.learning_rate,
        **sizes(student, images),
        **study.judge.figures(images, study.dense_samples),
        "curve": curve,
        "seconds_of_last_call": time.monotonic() - start,
    }
    write_text(folder / "row.json", json.dumps(found))
    return found


def kept_by(study: Study, row: Row, dense: nn.Module):
    """The channels of each block that the row's plan keeps, for the feature loss."""
    family = family_of(study.source.class_name)
    specs = family.specs(study.source.config)
    groups = family.groups(dense, example_inputs(specs, study.source.config))
    plan = Plan.read(study.work / "pruned" / row.cut / "plan.json")
    return kept_channels(dense, family, groups, plan.keep())


def averaged(model: nn.Module, folder: Path, step: int) -> nn.Module:
    """``model`` with the moving average of a checkpoint."""
    state = load_file(folder / f"step-{step:08d}.safetensors")
    own = {name.removeprefix("ema."): v for name, v in state.items() if name.startswith("ema.")}
    model.load_state_dict(own)
    return model


def sizes(model: nn.Module, images: Tensor) -> dict:
    example = torch.zeros(1, *images.shape[1:], device=next(model.parameters()).device)
    parameters = sum(p.numel() for p in model.parameters())
    return {"parameters": parameters, "macs": macs(model, example)}
