"""``diffc.compile``: the whole chain as one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffc.chain.run import Request, run
from diffc.models.source import find_source
from diffc.output import default_out
from diffc.recipe import resolve
from diffc.report.model import Report
from diffc.stages import StageEvent
from diffc.torch_state import own_state
from diffc_export.disks import user_path
from diffc_export.events import follow


@own_state()
def compile(
    model: str | Path,
    *,
    ratio: float | None = None,
    target: str | Sequence[str] | None = None,
    out: str | Path | None = None,
    recipe: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    stop: str = "bench",
    fresh: bool = False,
    allow_pickle: bool = False,
    on_event: Callable[[StageEvent], None] | None = None,
) -> Report:
    """Prune, distil, export, build and measure ``model``; returns what was measured.

    model: a diffusers folder, a hub id, or ``demo``.
    ratio: the share of MACs to remove, between 0 and 1 (the recipe's when None; 0.5 by default).
    target: one or several of those that ``diffc doctor`` lists, such as ``ort-cpu``.
    out: the output folder (``diffc-out/NAME-RATIO`` when None).
    recipe: a shipped recipe's name or a YAML file.
    options: anything else, nested like a recipe: ``{"distill": {"steps": 100}}``.
    stop: the last stage wanted: plan, prune, distill, export, build or bench.
    fresh: ignore the cache. on_event: called with each ``StageEvent``.

    PyTorch's state (gradients, autocast, defaults, generators, ...) is diffc's own for the time of
    the call, and the caller's again afterwards (torch_state.py).

    Raises RequestError for wrong options, InputError for an unusable model or folder,
    UnavailableError for a target that cannot build here, CheckFailed when an engine fails parity.
    """
    source = find_source(model, allow_pickle=allow_pickle)
    flags: dict[str, Any] = {"prune": {"ratio": ratio}, "build": {"target": target}}
    for section, value in (options or {}).items():
        flags[section] = {**flags.get(section, {}), **value} if isinstance(value, dict) else value
    chosen = resolve(family=source.class_name, model=source.name, recipe=recipe, flags=flags)
    folder = user_path(out) if out is not None else default_out(source.name, chosen.prune.ratio)
    return follow(run(Request(source, chosen, folder, stop=stop, fresh=fresh)), on_event)
