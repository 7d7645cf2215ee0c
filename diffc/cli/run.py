"""Runs stages for a command: which model and folder it means, and what the user sees of the run."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

from diffc.cli.command import Command, check_ratio_or_fit, command_line
from diffc.cli.flags.values import share, user_path
from diffc.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from diffc.models.source import Source
    from diffc.recipe import Recipe
    from diffc.runner import StageEvent
    from diffc.stages.finished import Over


class CheckAhead(Protocol):
    """A verb's own check before its run, which refuses what could not be done after the run."""

    def __call__(self, source: Source, recipe: Recipe, out: Path) -> None: ...


def run_chain(
    command: Command,
    stop: str,
    *,
    show: bool = True,
    forget: Mapping[str, Collection[str]] | None = None,
    check_ahead: CheckAhead | None = None,
    over: Over = "goes on",
    begins: str = "plan",
) -> Path:
    """Run the chain for a model or an output folder up to a stage, and show the report.

    Args:
        stop: the last stage.
        show: False leaves it to the caller to show the results.
        forget: see ``resolve_command``.
        check_ahead: refuses what could not be done after the run.
        over: what becomes of a finished run of another request in the output folder.
        begins: what --fresh does again begins with it; see ``Request.begins``.

    Returns:
        The output folder.
    """
    from diffc.cli.show import follow, show_report
    from diffc.stages.order import ParityFailed, run
    from diffc.stages.request import Request

    source, recipe, out = resolve_command(command, forget=forget)
    if check_ahead is not None:
        check_ahead(source, recipe, out)
    request = Request(
        source,
        recipe,
        out,
        stop,
        fresh=command.fresh,
        begins=begins,
        command=command_line(),
        over=over,
        estimated=not command.silent,
    )
    try:
        report = follow(run(request), quiet=command.silent)
    except ParityFailed as failed:
        show_report(failed.report, json=command.json, quiet=command.quiet)
        raise
    if show:
        show_report(report, json=command.json, quiet=command.quiet)
        if not command.silent:
            show_files(out)
    return out


def evaluate(command: Command, out: Path, *, forget: Mapping[str, Collection[str]]) -> None:
    """Judge samples of an output folder in the command's way, and show what it gives.

    Args:
        forget: see ``resolve_command``.
    """
    from diffc.cli.show import follow, show_evaluation
    from diffc.output import locked_recipe
    from diffc.report.model import Evaluation
    from diffc.stages.order import run
    from diffc.stages.request import EVALUATION, Request
    from diffc_export.events import map_events

    source, wanted, _ = resolve_command(command, forget=forget)
    request = Request(
        source,
        locked_recipe(out),
        out,
        "distill",
        fresh=command.fresh,
        begins=EVALUATION,
        command=command_line(),
        evaluation=wanted,
    )
    done: list[str] = []

    def note(event: StageEvent) -> StageEvent:
        done.append(event.stage)
        return event

    report = follow(map_events(run(request), note), quiet=command.silent)
    same = Evaluation(name="samples", quality=report.quality)
    evaluation = next((one for one in report.evaluations if one.name == done[-1]), same)
    show_evaluation(evaluation, out, json=command.json, quiet=command.quiet)


def finish_folder(command: Command, out: Path, stop: str) -> None:
    """Build (and measure) the engines of an output folder, and show its report."""
    from diffc.cli.show import follow, show_report
    from diffc.output import read_lock
    from diffc.recipe import resolve, with_overrides
    from diffc.stages.order import ParityFailed, finish

    build = command.section("build")
    overrides = {name: value for name, value in build.items() if name != "target"}
    flags = {**command.options, "build": {"target": build.get("target")}}
    recipe = resolve(family="", flags=flags, base=read_lock(out)["recipe"])
    own = with_overrides(recipe.build, overrides, "the options")
    recipe = recipe.model_copy(update={"build": own})
    work = finish(out, recipe, stop, fresh=command.fresh, command=command_line())
    try:
        report = follow(work, quiet=command.silent)
    except ParityFailed as failed:
        show_report(failed.report, json=command.json, quiet=command.quiet)
        raise
    show_report(report, json=command.json, quiet=command.quiet)


def show_files(out: Path) -> None:
    """Print the files that a person opens next."""
    from diffc.cli.show import write_answer
    from diffc.launch import process_rank

    files = [out / "report.md", out / "samples" / "grid.png"]
    if process_rank() == 0:
        write_answer("\n" + ", ".join(str(path) for path in files if path.exists()))


def resolve_command(
    command: Command,
    *,
    need_weights: bool = True,
    forget: Mapping[str, Collection[str]] | None = None,
) -> tuple[Source, Recipe, Path]:
    """The source, the recipe and the output folder of a command.

    An output folder in the model's place stands for its model and its recipe.

    Args:
        need_weights: False takes a config.json alone.
        forget: section -> the options that are not taken over from an output folder's recipe.

    Raises:
        RequestError, InputError: there is no such model, or a value of the recipe is wrong.
    """
    from diffc.cli.shipped_answers import refuse_out_of_reach
    from diffc.data.recipe_of_model import recipe_of_model
    from diffc.models.loras.files import with_loras
    from diffc.models.source import find_source
    from diffc.output import default_out, is_output, read_lock
    from diffc.recipe import resolve
    from diffc.stages.order import source_of

    folder, flags = user_path(command.model, "MODEL"), command.options
    if command.out is None and is_output(folder):
        source = source_of(folder, command.allow_pickle)
        locked = read_lock(folder)["recipe"]
        if "ratio" in command.section("prune"):
            locked["prune"]["fit"] = None
        for section, names in (forget or {}).items():
            options = locked[section].items()
            locked[section] = {key: value for key, value in options if key not in names}
        recipe = resolve(family="", recipe=command.recipe, flags=flags, base=locked)
        refuse_out_of_reach(source, recipe)
        return with_loras(source, recipe.loras, recipe.adapted_loras), recipe, folder
    source = find_source(
        command.model,
        need_weights=need_weights,
        allow_pickle=command.allow_pickle,
        family=command.family,
    )
    recipe = recipe_of_model(source, command.recipe, flags)
    refuse_out_of_reach(source, recipe)
    source = with_loras(source, recipe.loras, recipe.adapted_loras)
    return source, recipe, command.out or default_out(command.model, recipe.prune.word)


def with_ratios(command: Command, ratios: Sequence[str] | None) -> list[Command]:
    """One command for each share to remove, each once; the command itself where none is given.

    Raises:
        RequestError: a text is no share.
    """
    texts = list(ratios or ())
    for whole, decimals in pairwise(texts):
        if whole == "0" and re.fullmatch(r"\d+%?", decimals):
            raise RequestError(
                f"--ratio {whole},{decimals}: a comma parts several ratios, such as 0.2,0.3",
                hint=f"did you mean {whole}.{decimals}?",
            )
    shares = dict.fromkeys(share("--ratio")(text) for text in texts)
    each = [{**command.section("prune"), "ratio": ratio} for ratio in shares]
    for prune in each:
        check_ratio_or_fit(prune)
    return [replace(command, options={**command.options, "prune": p}) for p in each] or [command]


def of_folder(command: Command, out: Path) -> Command:
    """The command with an output folder in the model's place.

    Raises:
        InputError: ``out`` is not an output folder.
    """
    from diffc.output import read_lock

    read_lock(out)
    return replace(command, model=str(out))
