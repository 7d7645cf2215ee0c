"""``diffc.compile``: the whole chain as one call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from diffc.errors import RequestError, nearest
from diffc.models.source import find_source
from diffc.output import default_out
from diffc.recipe import Recipe, option_paths, resolve
from diffc.report.model import Report
from diffc.runner import StageEvent
from diffc.stages.finished import Over
from diffc.stages.order import Request, run
from diffc.torch_state import own_state
from diffc_export.disks import user_path
from diffc_export.events import follow

if TYPE_CHECKING:
    from typing_extensions import Unpack


class RunSettings(TypedDict, total=False):
    """How ``compile`` runs; every setting may be left out.

    Attributes:
        stop: the last stage: plan, prune, distill, export, build or bench, which is the default.
        fresh: True ignores the cache.
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
        model: a diffusers folder, a hub id, or ``demo``.
        ratio: the share of MACs to remove, between 0 and 1; None: the recipe's, which is 0.5 by
            default.
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
    flags: dict[str, object] = {"prune": {"ratio": ratio}, "build": {"target": target}}
    for section, value in (options or {}).items():
        given = flags.get(section, {})
        if isinstance(value, dict) and isinstance(given, dict):
            flags[section] = {**given, **value}
        else:
            flags[section] = value
    chosen = resolve(
        family=source.class_name,
        model=source.name,
        config=source.config,
        recipe=recipe,
        flags=flags,
    )
    folder = user_path(out) if out is not None else default_out(source.name, chosen.prune.ratio)
    stop, fresh = settings.get("stop", "bench"), settings.get("fresh", False)
    over: Over = "replaces" if settings.get("force", False) else "asks"
    work = run(Request(source, chosen, folder, stop=stop, fresh=fresh, over=over))
    return follow(work, settings.get("on_event"))


_SHOWN = 3
"""Options of a name that an error lists, at most."""


def _check_names(settings: Mapping[str, object]) -> None:
    for name, value in settings.items():
        if name not in RunSettings.__annotations__:
            raise _unknown_argument(name, value)


def _unknown_argument(name: str, value: object) -> RequestError:
    """The error for an argument that compile does not have, with the options of that name."""
    paths = option_paths(Recipe)
    places = [path for path in paths if path.rpartition(".")[2] == name]
    own = [*inspect.signature(compile).parameters, *RunSettings.__annotations__]
    own.remove("settings")  # the name of those that are taken by their own names
    if not places:
        close = nearest(name, [*own, *(path.rpartition(".")[2] for path in paths)], n=1)
        places = [path for path in paths if path.rpartition(".")[2] in close]
        if not close or close[0] in own:
            hint = f"did you mean {close[0]}?" if close else f"it takes {', '.join(own)}"
            return RequestError(f"compile() takes no '{name}'", hint=hint)
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
