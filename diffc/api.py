"""``diffc.compile``, the whole chain as one call, and ``diffc.search``, the best of several."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from diffc.data.recipe_of_model import recipe_of_model
from diffc.errors import RequestError, nearest, unknown
from diffc.models.loras.files import with_loras
from diffc.models.source import find_source
from diffc.output import default_out
from diffc.recipe import Recipe, option_paths
from diffc.report.model import Report
from diffc.runner import StageEvent
from diffc.stages.finished import Over
from diffc.stages.order import run
from diffc.stages.request import Request
from diffc.torch_state import own_state
from diffc_export.disks import user_path
from diffc_export.events import follow

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from diffc.trials.results import SearchResult


class RunSettings(TypedDict, total=False):
    """How ``compile`` runs; every setting may be left out.

    Attributes:
        stop: the last stage: plan, prune, distill, export, build or bench, which is the default.
        fresh: True does every stage again, whatever is cached.
        force: True replaces a finished run of another request in ``out``, once the new run is
            whole. Otherwise such a run is left as it is, and the call is refused.
        allow_pickle: True accepts .bin weights, which can run code when they are read.
        on_event: a function that is called with each ``StageEvent``.
    """

    stop: str
    fresh: bool
    force: bool
    allow_pickle: bool
    on_event: Callable[[StageEvent], None] | None


@own_state()
def compile(
    model: str | Path,
    *,
    ratio: float | None = None,
    target: str | Sequence[str] | None = None,
    out: str | Path | None = None,
    recipe: str | Path | None = None,
    options: Mapping[str, object] | None = None,
    **settings: Unpack[RunSettings],
) -> Report:
    """Prune, distil, export, build and measure a model.

    PyTorch's state (gradients, autocast, defaults, generators, ...) is diffc's own during the call,
    and the caller's again afterwards (torch_state.py).

    Args:
        model: a diffusers folder, a hub id, or a model that ships: ``demo``, ``demo-text``.
        ratio: the share of MACs to remove, between 0 and 1; None: the recipe's, else 0.5.
        target: one or several of the targets that ``diffc doctor`` lists, such as ``ort-cpu``;
            None: the recipe's.
        out: the output folder; None: ``diffc-out/NAME-RATIO``.
        recipe: a shipped recipe's name or a YAML file.
        options: any other option, nested as in a recipe: ``{"distill": {"steps": 100}}``.
        **settings: ``stop``, ``fresh``, ``force``, ``allow_pickle`` and ``on_event``, as
            RunSettings says.

    Returns:
        What was measured, as ``OUT/report.json`` holds it.

    Raises:
        RequestError: an option is wrong. Or ``out`` holds a finished run of another request.
        InputError: the model or the output folder cannot be used.
        UnavailableError: a target cannot build here.
        CheckFailed: an engine fails parity.
    """
    _check_names(settings)
    source = find_source(model, allow_pickle=settings.get("allow_pickle", False))
    own: dict[str, object] = {"prune": {"ratio": ratio}, "build": {"target": target}}
    flags = _merged(own, options or {})
    chosen = recipe_of_model(source, recipe, flags)
    source = with_loras(source, chosen.loras, chosen.adapted_loras)
    folder = (
        user_path(out, "out") if out is not None else default_out(source.name, chosen.prune.word)
    )
    stop, fresh = settings.get("stop", "bench"), settings.get("fresh", False)
    over: Over = "replaces" if settings.get("force", False) else "asks"
    work = run(Request(source, chosen, folder, stop=stop, fresh=fresh, over=over))
    return follow(work, settings.get("on_event"))


class SearchSettings(TypedDict, total=False):
    """What ``search`` wants and how it runs; at least one goal is needed.

    Attributes:
        max_latency: a goal: the time of one image, such as ``30ms``.
        speedup: a goal: times as fast as the dense model's reference loop.
        max_memory: a goal: the engine's peak, such as ``2GB``.
        min_ssim: a goal: to the reference loop's images.
        max_distance: a goal: to the data, times the dense model's own distance.
        ratio: the shares to try.
        cut: what may go, each a candidate's: ``width``, ``depth`` or ``width,depth``.
        precision: the engines' precisions to try.
        loop: the loops to try, such as ``dpm++:8``.
        workers: who trains: ``ray``, or a Ray cluster's address; None: this process.
        force: True replaces a finished run of another request in ``out``.
        allow_pickle: True accepts .bin weights, which can run code when they are read.
        on_event: a function that is called with each ``StageEvent``.
    """

    max_latency: str
    speedup: float | str
    max_memory: str
    min_ssim: float | str
    max_distance: float | str
    ratio: Sequence[float | str]
    cut: Sequence[str]
    precision: Sequence[str]
    loop: Sequence[str]
    workers: str | None
    force: bool
    allow_pickle: bool
    on_event: Callable[[StageEvent], None] | None


@own_state()
def search(
    model: str | Path,
    *,
    target: str | None = None,
    out: str | Path | None = None,
    recipe: str | Path | None = None,
    options: Mapping[str, object] | None = None,
    **settings: Unpack[SearchSettings],
) -> SearchResult:
    """Find the loop that reaches the goals, and leave its run in one folder.

    With a goal of quality (``min_ssim``, ``max_distance``) the fastest loop wins that reaches every
    goal, otherwise the loop that is closest to the dense model.

    Args:
        model: a diffusers folder, a hub id, or a model that ships: ``demo``, ``demo-text``.
        target: where engines run; None: the recipe's.
        out: the winner's output folder, as ``compile`` leaves it; None: ``diffc-out/NAME-search``.
        recipe: a shipped recipe's name or a YAML file.
        options: any other option, nested as in a recipe: ``{"distill": {"steps": 100}}``.
        **settings: the goals, the values to try, ``force``, ``allow_pickle`` and ``on_event``, as
            SearchSettings says.

    Returns:
        What was measured and what was not, as ``OUT/search.json`` holds it.

    Raises:
        GoalsMissed: nothing that was measured reaches the goals; the error has the result.
        RequestError: a goal or an option is wrong. Or ``out`` holds a finished run of another
            request.
        InputError: the model or the output folder cannot be used.
        UnavailableError: the target cannot build here.
    """
    from diffc.trials.goals import GOALS, for_any_loop, read_goals
    from diffc.trials.request import SearchRequest
    from diffc.trials.running import search as searched

    for name in settings:
        if name not in SearchSettings.__annotations__:
            raise unknown("argument of search()", name, SearchSettings.__annotations__)
    goals = read_goals({name: settings.get(name) for name in GOALS})
    source = find_source(model, allow_pickle=settings.get("allow_pickle", False))
    flags = _merged({"build": {"target": target}}, for_any_loop(options or {}, recipe))
    chosen = recipe_of_model(source, recipe, flags)
    source = with_loras(source, chosen.loras, chosen.adapted_loras)
    folder = user_path(out, "out") if out is not None else default_out(source.name, "search")
    request = SearchRequest(
        source,
        chosen,
        goals,
        _axis_values(settings),
        folder,
        replace=settings.get("force", False),
        workers=settings.get("workers"),
    )
    return follow(searched(request), settings.get("on_event"))


def _axis_values(settings: SearchSettings) -> dict[str, list[str]]:
    return {
        "ratio": [str(ratio) for ratio in settings.get("ratio", ())],
        "cut": list(settings.get("cut", ())),
        "precision": list(settings.get("precision", ())),
        "loop": list(settings.get("loop", ())),
    }


def _merged(flags: Mapping[str, object], options: Mapping[str, object]) -> dict[str, object]:
    """``options`` over ``flags``, section by section."""
    merged = dict(flags)
    for section, value in options.items():
        given = merged.get(section, {})
        if isinstance(value, dict) and isinstance(given, dict):
            merged[section] = {**given, **value}
        else:
            merged[section] = value
    return merged


_SHOWN = 3
"""Options of a name that an error lists, at most."""


def _check_names(settings: Mapping[str, object]) -> None:
    for name, value in settings.items():
        if name not in RunSettings.__annotations__:
            raise _unknown_argument(name, value)


def _unknown_argument(name: str, value: object) -> RequestError:
    """The error for an argument that compile does not have, with the options of that name."""
    paths = option_paths(Recipe)
    places = [path for path in paths if name in (path.rpartition(".")[2], path.replace(".", "_"))]
    own = [*inspect.signature(compile).parameters, *RunSettings.__annotations__]
    own.remove("settings")  # the name of those that are taken by their own names
    if not places:
        close = nearest(name, [*own, *(path.rpartition(".")[2] for path in paths)], n=1)
        places = [path for path in paths if path.rpartition(".")[2] in close]
        if not close or close[0] in own:
            hint = f"did you mean {close[0]}?" if close else f"it takes {', '.join(own)}"
            return RequestError(f"compile() takes no '{name}'", hint=hint)
    places.sort(key=lambda path: path.count("."))  # a section's before those of its parts
    ways = [_nested(path, value) for path in places[:_SHOWN]]
    return RequestError(
        f"compile() takes no '{name}' of its own", hint=f"did you mean {' or '.join(ways)}?"
    )


def _nested(path: str, value: object) -> str:
    """``options={'distill': {'steps': 10}}`` for ``distill.steps``."""
    shown: object = value if isinstance(value, int | float | str) else ...
    for part in reversed(path.split(".")):
        shown = {part: shown}
    return f"options={shown}".replace("Ellipsis", "...")
