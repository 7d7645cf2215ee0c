"""diffc compile: the whole chain."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from diffc.cli.command import Command, takes
from diffc.cli.run import resolve_command, run_chain, with_ratios
from diffc.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from diffc.models.source import Source
    from diffc.recipe import Recipe
    from diffc.stages.finished import Over


@takes(
    *(
        "model",
        "ratios",
        "fit",
        "lora",
        "target",
        "precision",
        "batch",
        "one_profile",
        "resolution",
        "gpu",
    ),
    *("data", "prompts", "guidance", "loop", "reference_loop", "repair"),
    *("distill_steps", "block_steps", "distill_rank"),
    *("distill_for", "out", "recipe", "seed", "shard", "memory", "cut", "ratio_of", "allocate"),
    *(
        "rounding",
        "importance",
        "threshold",
        "image_fit",
        "threads",
        "torch",
        "explain",
        "frontier",
    ),
    *(
        "text_encoders",
        "family",
        "allow_pickle",
        "no_build",
        "bundle",
        "fresh",
        "replace",
        "json",
        "quiet",
    ),
    goes_on=True,
)
def compile_(
    command: Command, ratio: list[str] | None, no_build: bool, bundle: str | None, force: bool
) -> None:
    """Prune, distil, export, build engines and measure, in one go.

    \b
      diffc compile demo --ratio 0.5
      diffc compile ./my-ddpm --ratio 30% --target ort-cpu,openvino
      diffc compile ./my-ddpm --ratio 0.3 --data ./images --distill-steps 2000
      diffc compile demo --ratio 0.2,0.3,0.5 --out OUTS
      diffc compile ./my-ddpm --ratio 0.5 --loop dpm++:8@trailing
      diffc compile demo --ratio 0.5 --target trt-rtx --gpu L4,A10,sm120
      diffc compile demo --recipe unet2d --distill-steps 0 --no-build --out OUT

    The same command again reuses whatever is done; killed at any moment, it goes on from there.
    Asked otherwise, it leaves a finished run as it is, unless --force is given. Of several ratios
    each gets a folder below --out, and a comparison ends the command.
    """
    over: Over = "replaces" if force else "asks"
    commands = with_ratios(command, ratio)
    if len(commands) > 1:
        if bundle is not None:
            raise RequestError("--bundle is of one run", hint="give one --ratio, or bundle OUT/0.3")
        _run_several(commands, "export" if no_build else "bench", over)
        return
    (command,) = commands
    if bundle is None:
        run_chain(command, "export" if no_build else "bench", over=over)
    elif no_build:
        raise RequestError("--bundle needs the engines that --no-build leaves out")
    else:
        _run_and_bundle(command, bundle, over)


def _run_several(commands: Sequence[Command], stop: str, over: Over) -> None:
    """Run the chain for several ratios, one after the other, and compare what they gave.

    What the ratios share (data, importance, the dense engine) is done once: it has the same key.
    """
    from diffc.cli.report import show_several
    from diffc.cli.show import messages
    from diffc.launch import process_rank
    from diffc.report.html import write_comparison
    from diffc.report.model import Report

    commands = [_in_own_folder(command) for command in commands]
    for command in commands:
        resolve_command(command)  # what is wrong with a value is told before any model is read
    for command in commands:
        _check(command, stop, over)
    outs = []
    for number, command in enumerate(commands, start=1):
        if not command.silent:
            line = f"{number} of {len(commands)}: --ratio {_ratio(command):g}"
            messages().print(line, style="bold", markup=False)
        outs.append(run_chain(command, stop, show=False, over=over))
    if process_rank() > 0:  # one process of a launch writes and prints
        return
    reports = [(str(out), Report.read(out)) for out in outs]
    page = outs[0].parent / "comparison.html"
    write_comparison(reports, page)
    show_several(reports, commands[0])
    if not commands[0].silent:
        messages().print(str(page), markup=False, soft_wrap=True)


def _in_own_folder(command: Command) -> Command:
    """The command with a folder below --out that is named after its ratio."""
    from diffc.output import is_output

    if command.out is None:
        return command
    if is_output(command.out):
        raise RequestError(
            f"{command.out} holds a run, and several ratios need a folder each",
            hint="give another --out, below which they come to lie",
        )
    return replace(command, out=command.out / f"{_ratio(command):g}")


def _ratio(command: Command) -> float:
    ratio = command.section("prune")["ratio"]
    assert isinstance(ratio, float)
    return ratio


def _check(command: Command, stop: str, over: Over) -> None:
    """Refuse, before the first of several runs begins, what the others could not do."""
    from diffc.stages.finished import replaces_finished
    from diffc.stages.preflight import preflight

    source, recipe, out = resolve_command(command)
    replaces_finished(source, recipe, out, over)
    preflight(source, recipe, out, stop)


def _run_and_bundle(command: Command, server: str, over: Over) -> None:
    from diffc.bundle.ahead import FLAG, check_ahead
    from diffc.bundle.build import write_bundle
    from diffc.cli.bundle import print_notes

    engines: list[str] = []

    def check(source: Source, recipe: Recipe, out: Path) -> None:
        named = "target" in command.section("build")
        targets, to = recipe.build.target, out / "bundle"
        engines.append(check_ahead(server, targets, named, source.scheduler, to))

    out = run_chain(command, "bench", check_ahead=check, over=over)
    written = write_bundle(
        out, out / "bundle", server=server, target=engines[0], force=True, flag=FLAG
    )
    print_notes(written.notes)
