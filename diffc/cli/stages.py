"""The stage verbs: each goes on from the folder that the one before it left."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from diffc.cli import options as o
from diffc.cli.compile import command_line, run_chain


def prune_(
    model: o.ModelOrOut,
    ratio: o.Ratio = None,
    ratio_of: o.RatioOf = None,
    allocate: o.Allocate = None,
    rounding: o.Rounding = None,
    importance: o.ImportanceMethod = None,
    threshold: o.Threshold = None,
    data: o.Data = None,
    prompts: o.Prompts = None,
    guidance: o.Guidance = None,
    fit: o.Fit = None,
    target: o.Target = None,
    precision: o.Precision = None,
    threads: o.Threads = None,
    out: o.Out = None,
    recipe: o.RecipeName = None,
    seed: o.Seed = None,
    allow_pickle: o.AllowPickle = False,
    fresh: o.Fresh = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Cut the model: OUT/plan.json and OUT/pruned.

    \b
      diffc prune demo --ratio 0.3 --out OUT
      diffc prune OUT --ratio 0.5
      diffc prune demo --ratio 0.5 --allocate latency --target ort-cpu --out OUT
    """
    flags = o.recipe_flags(
        ratio=ratio, ratio_of=ratio_of, allocate=allocate, rounding=rounding,
        importance=importance, threshold=threshold, data=data, prompts=prompts, guidance=guidance,
        fit=fit, target=target, precision=precision, threads=threads, seed=seed,
    )  # fmt: skip
    run_chain(
        model, flags, "prune", out=out, recipe=recipe, allow_pickle=allow_pickle, fresh=fresh,
        json=json, quiet=quiet,
    )  # fmt: skip


def distill_(
    out: o.OutFolder, steps: o.Steps = None, recipe: o.RecipeName = None, fresh: o.Fresh = False,
    json: o.Json = False, quiet: o.Quiet = False,
) -> None:  # fmt: skip
    """Distil the cut model from the dense one: OUT/model, and samples of both.

    \b
      diffc distill OUT --steps 2000
      diffc distill OUT --recipe gentler.yaml
    """
    flags = o.recipe_flags(steps=steps)
    run_chain(
        output_folder(out), flags, "distill", recipe=recipe, fresh=fresh, json=json, quiet=quiet
    )


def export_(
    out: o.OutFolder, recipe: o.RecipeName = None, fresh: o.Fresh = False, json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:  # fmt: skip
    """Export both models to ONNX: OUT/onnx.

    \b
      diffc export OUT
    """
    run_chain(
        output_folder(out), o.recipe_flags(), "export", recipe=recipe, fresh=fresh, json=json,
        quiet=quiet,
    )  # fmt: skip


def build_(
    out: o.OutFolder,
    target: o.Target = None,
    precision: o.Precision = None,
    batch: o.Batch = None,
    one_profile: o.OneProfile = None,
    gpu: o.Gpu = None,
    threads: o.Threads = None,
    torch: o.TorchWay = None,
    fresh: o.Fresh = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Build engines from OUT/onnx alone: no model, no torch needed here.

    \b
      diffc build OUT --target trt
      diffc build OUT --target trt-rtx --gpu sm86,sm89
      diffc build OUT --target openvino --precision auto

    What is said here is kept for the targets that it was said of.
    """
    flags = o.recipe_flags(
        target=target, precision=precision, batch=batch, one_profile=one_profile, gpu=gpu,
        threads=threads, torch=torch,
    )  # fmt: skip
    finish_folder(out, "build", flags, fresh=fresh, json=json, quiet=quiet)


def eval_(
    out: o.OutFolder,
    images: Annotated[
        int | None, typer.Option("--images", help="Images from the same noise.  [32]")
    ] = None,
    sampler_steps: Annotated[
        int | None, typer.Option("--sampler-steps", help="DDIM (Euler for flow) steps.  [50]")
    ] = None,
    lpips: Annotated[bool, typer.Option("--lpips", help="LPIPS between the pairs too.")] = False,
    reference: Annotated[
        str | None,
        typer.Option("--reference", help="Images (as for --data): FID and KID of both sides."),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option("--features", help="Their features: an ONNX file.  [inception]"),
    ] = None,
    seed: o.Seed = None,
    fresh: o.Fresh = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Measure how close OUT/model is to the dense one: SSIM and PSNR from the same noise, and more.

    \b
      diffc eval OUT --images 256
      diffc eval OUT --images 10000 --reference test-images/ --features classifier.onnx
    """
    quality = {
        "images": images, "steps": sampler_steps, "seed": seed, "lpips": lpips or None,
        "reference": reference, "features": features,
    }  # fmt: skip
    from diffc.follows import check_model

    flags = o.recipe_flags() | {"quality": quality}
    output_folder(out)
    check_model(out)
    run_chain(
        output_folder(out), flags, "distill", fresh=fresh, json=json, quiet=quiet,
        forget={"quality": ("lpips", "reference", "features")},
    )  # fmt: skip


def output_folder(out: Path) -> str:
    """``out`` as the chain's argument, once it is sure to be an output folder."""
    from diffc.output import read_lock

    read_lock(out)
    return str(out)


def finish_folder(
    out: Path, stop: str, flags: dict[str, Any], *, fresh: bool, json: bool, quiet: bool
) -> None:
    """Build (and measure) the engines of an output folder, and show its report."""
    from diffc.chain.run import ParityFailed, finish
    from diffc.cli.show import follow, show_report
    from diffc.output import read_lock
    from diffc.recipe import resolve, with_overrides

    build = flags.pop("build")
    flags["build"] = {"target": build.pop("target")}
    recipe = resolve(family="", flags=flags, base=read_lock(out)["recipe"])
    own = with_overrides(recipe.build, build, "the flags")
    recipe = recipe.model_copy(update={"build": own})
    work = finish(out, recipe, stop, fresh=fresh, command=command_line())
    try:
        report = follow(work, quiet=quiet or json)
    except ParityFailed as failed:
        show_report(failed.report, json=json, quiet=quiet)
        raise
    show_report(report, json=json, quiet=quiet)
