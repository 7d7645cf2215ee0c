"""diffc compile: the whole chain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffc.cli.command import Command, takes
from diffc.cli.run import run_chain
from diffc.errors import RequestError

if TYPE_CHECKING:
    from pathlib import Path

    from diffc.models.source import Source
    from diffc.recipe import Recipe
    from diffc.stages.finished import Over


@takes(
    *("model", "ratio", "target", "precision", "batch", "one_profile", "resolution", "gpu"),
    *("data", "prompts", "guidance", "repair", "distill_steps", "out", "recipe", "seed"),
    *("ratio_of", "allocate"),
    *("rounding", "importance", "threshold", "fit", "threads", "torch", "explain", "family"),
    *("allow_pickle", "no_build", "bundle", "fresh", "replace", "json", "quiet"),
)
def compile_(command: Command, no_build: bool, bundle: str | None, force: bool) -> None:
    """Prune, distil, export, build engines and measure, in one go.

    \b
      diffc compile demo --ratio 0.5
      diffc compile ./my-ddpm --ratio 30% --target ort-cpu,openvino
      diffc compile ./my-ddpm --ratio 0.3 --data ./images --distill-steps 2000
      diffc compile demo --ratio 0.5 --target trt-rtx --gpu L4,A10,sm120
      diffc compile demo --recipe unet2d --distill-steps 0 --no-build --out OUT

    The same command again reuses whatever is done; killed at any moment, it goes on from there.
    Asked otherwise, it leaves a finished run as it is, unless --force is given.
    """
    over: Over = "replaces" if force else "asks"
    if bundle is None:
        run_chain(command, "export" if no_build else "bench", over=over)
    elif no_build:
        raise RequestError("--bundle needs the engines that --no-build leaves out")
    else:
        _run_and_bundle(command, bundle, over)


def _run_and_bundle(command: Command, server: str, over: Over) -> None:
    from diffc.bundle import write_bundle
    from diffc.bundle.ahead import check_ahead
    from diffc.cli.bundle import print_notes

    engines: list[str] = []

    def check(source: Source, recipe: Recipe, out: Path) -> None:
        named = "target" in command.section("build")
        targets, to = recipe.build.target, out / "bundle"
        engines.append(check_ahead(server, targets, named, source.scheduler, to))

    out = run_chain(command, "bench", check_ahead=check, over=over)
    written = write_bundle(out, out / "bundle", server=server, target=engines[0], force=True)
    print_notes(written.notes)
