"""What is asked of a search: its request, its candidates, and what is refused before any work."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from diffc.data.loops import run_loops
from diffc.errors import RequestError
from diffc.measure.frontier.loops import resolved
from diffc.models.source import Source
from diffc.output import is_output, read_lock
from diffc.recipe import Recipe
from diffc.stages.build import check_targets
from diffc.stages.by_block import choose_by_block
from diffc.stages.finished import is_run_of
from diffc.stages.fit_memory import fit_memory, with_settings_of
from diffc.stages.preflight import preflight
from diffc.trials.distances import check_distance
from diffc.trials.goals import DISTANCE, Goals
from diffc.trials.results import SearchResult
from diffc.trials.space import Space
from diffc.trials.trials import distinct
from diffc.trials.workers import check_workers
from diffc_runtime.loop import Loop

RESULT = "search.json"
"""The file in OUT that holds what the search found."""


@dataclass(frozen=True)
class SearchRequest:
    """One search.

    Attributes:
        source: The dense model.
        recipe: The options that no axis of the search has.
        goals: What a loop must reach.
        values: Axis -> its values as they were typed. An axis that is left out has its defaults.
        out: Where the winner's run goes.
        replace: Whether a finished run of another request in ``out`` is replaced.
        command: The command that makes the search again; None for a call from Python.
        workers: Where trainings run: ``ray``, or a cluster's address; None: here.
        spare: Whether candidates that cannot win any more are left untrained.
    """

    source: Source
    recipe: Recipe
    goals: Goals
    values: Mapping[str, Sequence[str]]
    out: Path
    replace: bool = False
    command: str | None = None
    workers: str | None = None
    spare: bool = True


def space_of(request: SearchRequest) -> Space:
    """Return the candidates of a search.

    A loop that was typed in two spellings stands there once.
    The recipe gets settings with which the largest network fits into its memory.

    Raises:
        RequestError: A value is none of its axis, there are too many candidates, the recipe has
            several targets, or the largest network does not fit into the recipe's memory.
    """
    if len(request.recipe.build.target) != 1:
        raise RequestError("search measures on one target", hint="give one --target")
    (name,) = request.recipe.build.target
    recipe = request.recipe.for_target(name)
    space = Space.of(request.source, recipe, request.values)
    config = request.source.scheduler
    loops: dict[Loop, str] = {}
    for text in space.values["loop"]:
        loop = run_loops(space.apply((("loop", text),)), config).first
        loops.setdefault(resolved(loop, config), text)
    space = replace(space, values={**space.values, "loop": tuple(loops.values())})
    return _in_memory(request.source, space)


def _in_memory(source: Source, space: Space) -> Space:
    """The space with settings with which the largest of its networks fits into memory.

    All candidates share them: none changes a result, and stages that candidates share stay shared.
    """
    recipes = [space.apply(one) for one in distinct([space.trained(c) for c in space.candidates])]
    largest = min(recipes, key=lambda recipe: recipe.prune.ratio)
    fitted, notes = fit_memory(source, largest, "export")
    fitted, chosen = choose_by_block(source, fitted)
    recipe = with_settings_of(space.recipe, fitted)
    return replace(space, recipe=recipe, notes=(*notes, *chosen))


def check(request: SearchRequest, space: Space, key: str) -> list[str]:
    """Refuse what the search could not do. Nothing is written.

    Args:
        request: The search.
        space: The candidates of ``request``.
        key: The request's key (``request_key``).

    Returns:
        Notes for the user, each once.

    Raises:
        RequestError, InputError, UnavailableError: With what is wrong.
    """
    out = request.out
    check_workers(request.workers)
    if DISTANCE in request.goals.by_name:
        check_distance(space.recipe)
    for precision in space.values["precision"]:
        check_targets(space.apply((("precision", precision),)).build)
    is_finished = is_output(out) and bool(read_lock(out)["stages"])
    if is_finished and not request.replace and not _is_of(out, space, key):
        raise RequestError(
            f"{out} holds a finished run of another request",
            hint="give another --out, or --force to replace that run by the winner's",
        )
    notes = [*space.notes]
    for choice in distinct([space.trained(one) for one in space.candidates]):
        recipe = space.apply(choice)
        if recipe.distill.aim != "loop":
            recipe = recipe.model_copy(update={"loops": space.values["loop"]})
        notes += preflight(request.source, recipe, out, "export")
    return list(dict.fromkeys(notes))


def request_key(request: SearchRequest, space: Space) -> str:
    """A hash of the model, the candidates and the goals: searches that share it are the same."""
    value = [
        request.source.digest,
        space.recipe.model_dump(mode="json"),
        space.values,
        request.goals.by_name,
        *(() if request.spare else ("all",)),
    ]
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _is_of(out: Path, space: Space, key: str) -> bool:
    """Whether OUT holds the winner of this very search."""
    try:
        result = SearchResult.model_validate_json((out / RESULT).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    if result.request != key or result.chosen is None:
        return False
    return is_run_of(out, space.apply(tuple(result.chosen.items())))
