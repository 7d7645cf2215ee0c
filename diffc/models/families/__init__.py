"""The families that diffc knows, by class name: the files of this folder, and other packages'.

A file of this folder that sets ``FAMILY`` is a family. Another package adds one with an entry point
of the group ``diffc.families``, whose name is the class's name (docs/extending.md). A package's
family is imported when its class is needed, so that a broken one is in nobody else's way.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from diffc.errors import DiffcError, InputError, UnavailableError
from diffc_export.discovery import EntryPoint, entry_points, load, module_files

if TYPE_CHECKING:
    from diffc.models.families.base import Family

GROUP = "diffc.families"
"""The group of entry points by which other packages add families."""
_REQUIRED = ("class_name", "component")


def family_names() -> list[str]:
    """Return the classes that diffc can compress: its own first, then other packages'.

    Among its own, denoisers come first.
    """
    return list(dict.fromkeys([*_own_families(), *(point.name for point in entry_points(GROUP))]))


def component_of(class_name: str) -> str:
    """Return the name of the folder in a pipeline that holds models of this class.

    Args:
        class_name: As config.json's ``_class_name`` has it.

    Returns:
        ``unet``, ``transformer`` or ``vae``.

    Raises:
        InputError: No family is known for the class.
    """
    return family(class_name).component


def families() -> list[Family]:
    """Return every usable family; a broken one of another package is left out."""
    candidates = map(_find_family, family_names())
    return [known for known in candidates if isinstance(known, _family_class())]


def flow_keys() -> frozenset[str]:
    """Return what families add to a flow's scheduler config; diffusers' classes do not know it."""
    return frozenset(key for known in families() for key in known.flow_settings)


def denoiser_folders() -> tuple[str, ...]:
    """Return the pipeline's folders that hold a denoiser, of diffc's own families."""
    denoisers = [known for known in _own_families().values() if known.is_denoiser]
    return tuple(dict.fromkeys(known.component for known in denoisers))


def is_own(class_name: str) -> bool:
    """Return True if the family of ``class_name`` is a file of this folder."""
    return class_name in _own_families()


def family(class_name: str) -> Family:
    """Return the family of a class.

    Args:
        class_name: The denoiser's class, as config.json's ``_class_name`` has it.

    Raises:
        InputError: The class is unknown; the hint names the known ones.
        UnavailableError: Another package's family for it is broken, or two families claim the
            class.
    """
    known = _find_family(class_name)
    if isinstance(known, DiffcError):
        raise known
    return known


def broken_families() -> dict[str, str]:
    """Return class name -> why the family of another package cannot be used."""
    names = dict.fromkeys(point.name for point in entry_points(GROUP))
    return {name: str(why) for name in names if isinstance(why := _find_family(name), DiffcError)}


def family_package(class_name: str) -> str | None:
    """Return the distribution that another package's family comes from; None for diffc's own."""
    points = _points(class_name)
    return points[0].package if points and not is_own(class_name) else None


def _find_family(class_name: str) -> Family | DiffcError:
    """Return the family of a class, or the error that says why there is none."""
    own = _own_families().get(class_name)
    points = _points(class_name)
    claims = [f"{type(own).__module__} of diffc"] if own else []
    claims += [f"{point.value} of the package {point.package}" for point in points]
    if len(claims) > 1:
        return UnavailableError(
            f"two families claim the class {class_name}: {' and '.join(claims)}",
            hint="uninstall one of the packages",
        )
    if points:
        return _load(points[0], tuple(sys.path))
    return own or InputError(
        f"unknown model family '{class_name}'", hint=f"known: {', '.join(family_names())}"
    )


@cache
def _load(point: EntryPoint, path: tuple[str, ...]) -> Family | DiffcError:
    """A package's family, checked; or why it cannot be used, in one line.

    path: ``sys.path``, which decides what is imported.
    """
    known, reason = load(point, "FAMILY")
    if reason:
        return _refusal(point, reason)
    if not isinstance(known, _family_class()):
        return _refusal(point, "it sets no FAMILY that is an instance of base.Family")
    for name in _REQUIRED:
        if not isinstance(getattr(known, name, None), str):
            return _refusal(point, f"it sets no {name}")
    if known.class_name != point.name:
        return _refusal(point, f"its class_name is {known.class_name}")
    return known


def _refusal(point: EntryPoint, why: str) -> UnavailableError:
    place = f"{point.value} of the package {point.package}"
    return UnavailableError(
        f"the family of {point.name} ({place}) cannot be used: {why}",
        hint=f"mend or uninstall {point.package}; docs/extending.md says what a family needs",
    )


@cache
def _own_families() -> dict[str, Family]:
    known: list[Family] = [
        import_module(name).FAMILY for name in module_files(__name__, "FAMILY").values()
    ]
    known.sort(key=lambda one: not one.is_denoiser)
    return {one.class_name: one for one in known}


def _points(class_name: str) -> list[EntryPoint]:
    return [point for point in entry_points(GROUP) if point.name == class_name]


def _family_class() -> type[Family]:
    from diffc.models.families.base import Family

    return Family
