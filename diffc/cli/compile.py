"""diffc compile: the whole chain."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffc.cli import options as o
from diffc.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

    from diffc.models.source import Source
    from diffc.recipe import Recipe


def compile_(
    model: o.Model,
    ratio: o.Ratio = None,
    target: o.Target = None,
    precision: o.Precision = None,
    batch: o.Batch = None,
    one_profile: o.OneProfile = None,
    resolution: o.Resolution = None,
    gpu: o.Gpu = None,
    data: o.Data = None,
    prompts: o.Prompts = None,
    guidance: o.Guidance = None,
    steps: o.Steps = None,
    out: o.Out = None,
    recipe: o.RecipeName = None,
    seed: o.Seed = None,
    ratio_of: o.RatioOf = None,
    allocate: o.Allocate = None,
    rounding: o.Rounding = None,
    importance: o.ImportanceMethod = None,
    threshold: o.Threshold = None,
    fit: o.Fit = None,
    threads: o.Threads = None,
    torch: o.TorchWay = None,
    explain: o.Explain = None,
    family: o.FamilyName = None,
    allow_pickle: o.AllowPickle = False,
    no_build: Annotated[
        bool, typer.Option("--no-build", help="Stop before the engines: build them elsewhere.")
    ] = False,
    bundle: Annotated[
        str | None, typer.Option("--bundle", help="OUT/bundle for a server: triton, ovms, none.")
    ] = None,
    fresh: o.Fresh = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Prune, distil, export, build engines and measure, in one go.

    \b
      diffc compile demo --ratio 0.5
      diffc compile ./my-ddpm --ratio 0.3 --data ./images --target ort-cpu --target openvino
      diffc compile demo --ratio 0.5 --target trt-rtx --gpu sm86,sm89,sm120
      diffc compile demo --recipe unet2d --steps 0 --no-build --out OUT

    The same command again reuses whatever is done; killed at any moment, it goes on from there.
    """
    flags = o.recipe_flags(
        ratio=ratio, ratio_of=ratio_of, allocate=allocate, rounding=rounding,
        importance=importance, threshold=threshold, target=target, precision=precision,
        batch=batch, one_profile=one_profile, resolution=resolution, gpu=gpu, threads=threads,
        data=data, prompts=prompts, guidance=guidance, fit=fit,
        steps=steps, seed=seed,
        torch=torch, explain=explain,
    )  # fmt: skip
    stop = "export" if no_build else "bench"
    if bundle is not None and no_build:
        raise RequestError("--bundle needs the engines that --no-build leaves out")
    engine: list[str] = []

    def ahead(source: Source, chosen: Recipe, folder: Path) -> None:
        from diffc.bundle.ahead import check_ahead

        if bundle is not None:
            built, to = chosen.build.target, folder / "bundle"
            engine.append(check_ahead(bundle, built, bool(target), source.scheduler, to))

    folder = run_chain(
        model, flags, stop, out=out, recipe=recipe, family=family, allow_pickle=allow_pickle,
        fresh=fresh, json=json, quiet=quiet, ahead=ahead,
    )  # fmt: skip
    if bundle is not None:
        from diffc.bundle import write_bundle
        from diffc.cli.bundle import say_notes

        made = write_bundle(folder, folder / "bundle", server=bundle, target=engine[0], force=True)
        say_notes(made.notes)


def run_chain(
    model: str,
    flags: dict[str, Any],
    stop: str,
    *,
    out: Path | None = None,
    recipe: str | None = None,
    family: str | None = None,
    allow_pickle: bool = False,
    fresh: bool = False,
    json: bool = False,
    quiet: bool = False,
    show: bool = True,
    forget: Mapping[str, Collection[str]] | None = None,
    ahead: Callable[[Source, Recipe, Path], None] | None = None,
) -> Path:
    """Run the chain for a model or an output folder up to ``stop``, show the report; OUT.

    show: False leaves it to the caller to show what was made. forget: see ``asked``.
    ahead: called with the source, the recipe and OUT before anything is run, to refuse what could
        not be done afterwards.
    """
    from diffc.chain.run import ParityFailed, Request, run
    from diffc.cli.show import follow, show_report

    source, chosen, folder = asked(
        model, flags, out=out, recipe=recipe, family=family, allow_pickle=allow_pickle,
        forget=forget,
    )  # fmt: skip
    if ahead is not None:
        ahead(source, chosen, folder)
    request = Request(source, chosen, folder, stop, fresh=fresh, command=command_line())
    try:
        report = follow(run(request), quiet=quiet or json)
    except ParityFailed as failed:
        show_report(failed.report, json=json, quiet=quiet)
        raise
    if not show:
        return folder
    show_report(report, json=json, quiet=quiet)
    if not (json or quiet):
        say_where(folder)
    return folder


def say_where(folder: Path) -> None:
    """The files that a person opens next."""
    from diffc.launch import process_rank

    files = [folder / "report.md", folder / "samples" / "grid.png"]
    if process_rank() == 0:
        print("\n" + ", ".join(str(path) for path in files if path.exists()), file=sys.stderr)


def asked(
    model: str,
    flags: dict[str, Any],
    *,
    out: Path | None = None,
    recipe: str | None = None,
    family: str | None = None,
    allow_pickle: bool = False,
    need_weights: bool = True,
    forget: Mapping[str, Collection[str]] | None = None,
) -> tuple[Source, Recipe, Path]:
    """The source, the recipe and the output folder that a command line means.

    An output folder in MODEL's place stands for the model it was made from, with its recipe.
    forget: a recipe's part -> its options that a folder's recipe does not hand on.
    """
    from diffc.chain.run import source_of
    from diffc.models.source import find_source
    from diffc.output import default_out, is_output, read_lock
    from diffc.recipe import resolve

    folder = o.user_path(model)
    if out is None and is_output(folder):
        source = source_of(folder, allow_pickle)
        held = read_lock(folder)["recipe"]
        for part, names in (forget or {}).items():
            held[part] = {key: kept for key, kept in held[part].items() if key not in names}
        return source, resolve(family="", recipe=recipe, flags=flags, base=held), folder
    source = find_source(model, need_weights=need_weights, allow_pickle=allow_pickle, family=family)
    chosen = resolve(family=source.class_name, model=source.name, recipe=recipe, flags=flags)
    return source, chosen, out or default_out(model, chosen.prune.ratio)


def command_line() -> str:
    """This command, as it can be typed again."""
    return shlex.join(["diffc", *sys.argv[1:]])
