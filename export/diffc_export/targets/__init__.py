"""Targets: the runtimes that engines are built for, by name.

A target is a file with a ``TARGET``: in this folder (``ort_cpu.py`` is ``ort-cpu``), registered by
another package (``register``), or named by an installed distribution's entry point of the group
``diffc.targets``. ``target(name)`` imports one target's file and nothing else; ``names()`` imports
none; ``check_gpus`` says before the long work what only the build would find out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffc_export.discovery import Registry
from diffc_runtime import loaders

if TYPE_CHECKING:
    from diffc_export.targets.base import Target

_PARTS = ("status", "precisions", "build", "load")


def register(name: str, module: str) -> None:
    """Add a target of another package.

    Args:
        name: what ``--target`` calls it.
        module: the module whose ``TARGET`` it is, imported when the target is asked for.
    """
    _TARGETS.register(name, module)


def names() -> list[str]:
    """Every target's name: diffc's own first. Nothing is imported."""
    return _TARGETS.names()


def target(name: str) -> Target:
    """The target called ``name``.

    Raises:
        RequestError: no target is called so (with the nearest names), or two are.
        UnavailableError: it is another distribution's, and cannot be imported or lacks a part.
    """
    chosen = _TARGETS.get(name)
    if _TARGETS.package_of(name) is not None and chosen.facts.loader is not None:
        loaders.register(name, chosen.facts.loader)
    return chosen


def problems() -> dict[str, str]:
    """Name -> why a listed target cannot be used, in one line."""
    return _TARGETS.problems()


def targets() -> dict[str, Target]:
    """Return every usable target by its name; this imports each target's file."""
    broken = problems()
    return {name: target(name) for name in names() if name not in broken}


def engine_packages() -> list[str]:
    """The distributions whose versions belong to some target's engines."""
    return list(dict.fromkeys(p for one in targets().values() for p in one.facts.packages))


def on_gpu(name: str) -> bool:
    """Whether the target's engines run on a GPU; ``torch``'s do where torch sees one."""
    from diffc_runtime.machine import driver

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


def _fault(name: str, chosen: object) -> str:
    """What a target of another distribution lacks; empty when it is whole."""
    from diffc_export.targets.base import TargetFacts

    facts = getattr(chosen, "facts", None)
    if not isinstance(facts, TargetFacts):
        return "it has no 'facts' (a diffc_export.targets.base.TargetFacts)"
    missing = [part for part in _PARTS if not callable(getattr(chosen, part, None))]
    if missing:
        return f"it has no method '{missing[0]}'"
    if facts.name != name:
        return f"its facts call it '{facts.name}'"
    return ""


_TARGETS: Registry[Target] = Registry(
    "target", __name__, "TARGET", fault=_fault, unlisted=frozenset({"fake"})
)
