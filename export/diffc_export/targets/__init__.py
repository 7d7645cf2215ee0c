"""Targets: the runtimes that engines are built for, by name.

A target is a file with a ``TARGET``: in this folder (``ort_cpu.py`` is ``ort-cpu``), registered by
another package (``register``), or named by an installed distribution's entry point of the group
``diffc.targets``. ``target(name)`` imports one target's file and nothing else; ``names()`` imports
none; ``check_gpus`` says before the long work what only the build would find out.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from diffc_runtime import loaders
from diffc_runtime.errors import RequestError, UnavailableError, unknown

if TYPE_CHECKING:
    from diffc_export.targets.base import Target

GROUP = "diffc.targets"
_UNLISTED = frozenset({"fake"})
_REGISTERED: dict[str, str] = {}
_PARTS = ("status", "precisions", "build", "load")


@dataclass(frozen=True)
class _Home:
    """Where a target comes from. distribution: its name and version; empty for one of ours."""

    module: str
    distribution: str = ""
    attribute: str = "TARGET"

    def __str__(self) -> str:
        return f"{self.module} ({self.distribution or 'diffc'})"


def register(name: str, module: str) -> None:
    """Add a target of another package.

    Args:
        name: what ``--target`` calls it.
        module: the module whose ``TARGET`` it is, imported when the target is asked for.
    """
    _REGISTERED[name] = module


def names() -> list[str]:
    """Every target's name: diffc's own first. Nothing is imported."""
    return [name for name in _homes() if name not in _UNLISTED]


def target(name: str) -> Target:
    """The target called ``name``.

    Raises:
        RequestError: no target is called so (with the nearest names), or two are.
        UnavailableError: it is another distribution's, and cannot be imported or lacks a part.
    """
    homes = _homes().get(name)
    if homes is None:
        raise unknown("target", name, names())
    if len(homes) > 1:
        both = " and ".join(map(str, homes))
        raise RequestError(
            f"two targets are called '{name}': {both}",
            hint="uninstall one, or rename its entry point and its target",
        )
    home = homes[0]
    if not home.distribution:
        chosen: Target = import_module(home.module).TARGET
        return chosen
    return _foreign_target(name, home)


def problems() -> dict[str, str]:
    """Name -> why a listed target cannot be used, in one line."""
    reasons = {}
    for name in names():
        try:
            target(name)
        except (RequestError, UnavailableError) as error:
            reasons[name] = f"{error} ({error.hint})" if error.hint else str(error)
    return reasons


def targets() -> dict[str, Target]:
    """Every listed target that can be used, by name; imports the file of each."""
    broken = problems()
    return {name: target(name) for name in names() if name not in broken}


def engine_packages() -> list[str]:
    """The distributions whose versions belong to some target's engines."""
    return list(dict.fromkeys(p for one in targets().values() for p in one.facts.packages))


def on_gpu(name: str) -> bool:
    """Whether the target's engines run on a GPU; ``torch``'s do where torch sees one."""
    from diffc_export.targets import driver

    device = target(name).facts.device
    return device == "gpu" or (device == "torch" and driver.torch_on_gpu())


def check_gpus(name: str, gpus: tuple[str, ...], precision: str) -> None:
    """Raise what building target ``name`` for ``gpus`` in ``precision`` would, building nothing.

    RequestError for a GPU that it cannot build for, UnavailableError for one that lacks the
    precision. A target that builds for no GPU in particular takes no notice of ``gpus``.
    """
    check = getattr(target(name), "check_gpus", None)
    if check is not None:
        check(gpus, precision)


def _homes() -> dict[str, list[_Home]]:
    homes = {name: [_Home(module)] for name, module in (_own() | _REGISTERED).items()}
    for name, home in _entry_points(tuple(sys.path)):
        homes.setdefault(name, []).append(home)
    return homes


@cache
def _own() -> dict[str, str]:
    """Name -> module of each file of this folder that has a ``TARGET``."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    stems = [file.stem for file in files if "\nTARGET" in file.read_text("utf-8")]
    return {stem.replace("_", "-"): f"{__name__}.{stem}" for stem in stems if stem != "__init__"}


@cache
def _entry_points(path: tuple[str, ...]) -> tuple[tuple[str, _Home], ...]:
    """What the distributions on the import path add. path: ``sys.path``, as the cache's key."""
    from importlib import metadata

    homes: dict[tuple[str, str, str], _Home] = {}
    for point in metadata.entry_points(group=GROUP):
        dist = point.dist
        distribution = f"{dist.name} {dist.version}" if dist else "an unknown distribution"
        home = _Home(point.module, distribution, point.attr or "TARGET")
        homes[(point.name, home.module, distribution)] = home
    return tuple((name, home) for (name, _, _), home in homes.items())


def _foreign_target(name: str, home: _Home) -> Target:
    """Another distribution's target, whole. Raises UnavailableError with what is wrong with it."""
    try:
        chosen: Target = getattr(import_module(home.module), home.attribute)
        reason = _incomplete(name, chosen)
    except Exception as error:  # whatever foreign code raises while it is imported
        words = " ".join(str(error).split())[:200]
        reason = f"{type(error).__name__}: {words}" if words else type(error).__name__
    if reason:
        raise UnavailableError(
            f"target '{name}' of {home} cannot be used: {reason}",
            hint=f"mend or uninstall {home.distribution.partition(' ')[0]}",
        )
    if chosen.facts.loader is not None:
        loaders.register(name, chosen.facts.loader)
    return chosen


def _incomplete(name: str, chosen: Target) -> str:
    """What a target of another distribution lacks; empty when it is whole."""
    from diffc_export.targets.base import TargetFacts

    if not isinstance(getattr(chosen, "facts", None), TargetFacts):
        return "it has no 'facts' (a diffc_export.targets.base.TargetFacts)"
    missing = [part for part in _PARTS if not callable(getattr(chosen, part, None))]
    if missing:
        return f"it has no method '{missing[0]}'"
    if chosen.facts.name != name:
        return f"its facts call it '{chosen.facts.name}'"
    return ""
