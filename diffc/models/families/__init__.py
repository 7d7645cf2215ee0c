"""The families that diffc knows, by class name: the files of this folder, and other packages'.

A file of this folder that sets ``FAMILY`` is a family. Another package adds one with an entry point
of the group ``diffc.families``, whose name is the class's name (docs/extending.md). A package's
family is imported when its class is needed, so that a broken one is in nobody else's way.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module, metadata
from importlib.util import find_spec
from pkgutil import iter_modules
from typing import TYPE_CHECKING

from diffc.errors import DiffcError, InputError, UnavailableError

if TYPE_CHECKING:
    from diffc.models.families.base import Family

GROUP = "diffc.families"
"""The group of entry points by which other packages add families."""
_SETS_FAMILY = re.compile(r"^FAMILY\b", re.MULTILINE)
_NEEDED = ("class_name", "component")


@dataclass(frozen=True)
class _Place:
    """Where a family comes from. value: of the entry point; package: the distribution's name."""

    class_name: str
    value: str
    package: str

    def __str__(self) -> str:
        return f"{self.value} of the package {self.package}"


def family_names() -> list[str]:
    """The classes that diffc can compress: its own, denoisers first, then other packages'."""
    return list(dict.fromkeys([*_own_families(), *(place.class_name for place in _places())]))


def component_of(class_name: str) -> str:
    """The folder of a pipeline that holds the class: ``unet``, ``transformer``, ``vae``."""
    return family(class_name).component


def families() -> list[Family]:
    """Every family that can be used; a broken one of another package is left out."""
    return [known for name in family_names() if isinstance(known := _lookup(name), _base())]


def denoiser_folders() -> tuple[str, ...]:
    """The folders of a pipeline that hold a denoiser, of diffc's own families."""
    denoisers = [known for known in _own_families().values() if known.is_denoiser]
    return tuple(dict.fromkeys(known.component for known in denoisers))


def is_own(class_name: str) -> bool:
    """Whether the family of ``class_name`` is a file of this folder."""
    return class_name in _own_families()


def family(class_name: str) -> Family:
    """The family of a class.

    Raises:
        InputError: with the names that are known, when this one is not.
        UnavailableError: when another package's family for it is broken, or two claim the class.
    """
    known = _lookup(class_name)
    if isinstance(known, DiffcError):
        raise known
    return known


def broken_families() -> dict[str, str]:
    """Class name -> why its family, of another package, cannot be used."""
    names = dict.fromkeys(place.class_name for place in _places())
    return {name: str(why) for name in names if isinstance(why := _lookup(name), DiffcError)}


def family_package(class_name: str) -> str | None:
    """The distribution that another package's family comes from; None for diffc's own."""
    places = [place for place in _places() if place.class_name == class_name]
    return places[0].package if places and not is_own(class_name) else None


def _lookup(class_name: str) -> Family | DiffcError:
    """The family of a class, or why there is none."""
    own = _own_families().get(class_name)
    places = [place for place in _places() if place.class_name == class_name]
    claims = [*([f"{type(own).__module__} of diffc"] if own else []), *map(str, places)]
    if len(claims) > 1:
        return UnavailableError(
            f"two families claim the class {class_name}: {' and '.join(claims)}",
            hint="uninstall one of the packages",
        )
    if places:
        return _load(places[0], tuple(sys.path))
    return own or InputError(
        f"unknown model family '{class_name}'", hint=f"known: {', '.join(family_names())}"
    )


@cache
def _load(place: _Place, path: tuple[str, ...]) -> Family | DiffcError:
    """A package's family, checked; or why it cannot be used, in one line.

    path: ``sys.path``, which decides what is imported.
    """
    entry = metadata.EntryPoint(place.class_name, place.value, GROUP)
    try:
        loaded = entry.load()
        known = getattr(loaded, "FAMILY", loaded)
    except (Exception, SystemExit) as error:  # another package's code: any kind
        lines = str(error).strip().splitlines() or [""]
        return _refusal(place, f"{type(error).__name__}: {lines[0][:80]}".rstrip(": "))
    if not isinstance(known, _base()):
        return _refusal(place, "it sets no FAMILY that is an instance of base.Family")
    for name in _NEEDED:
        if not isinstance(getattr(known, name, None), str):
            return _refusal(place, f"it sets no {name}")
    if known.class_name != place.class_name:
        return _refusal(place, f"its class_name is {known.class_name}")
    return known


def _refusal(place: _Place, why: str) -> UnavailableError:
    return UnavailableError(
        f"the family of {place.class_name} ({place}) cannot be used: {why}",
        hint=f"mend or uninstall {place.package}; docs/extending.md says what a family needs",
    )


@cache
def _own_families() -> dict[str, Family]:
    known: list[Family] = [import_module(name).FAMILY for name in _family_modules()]
    known.sort(key=lambda one: not one.is_denoiser)
    return {one.class_name: one for one in known}


def _family_modules() -> Iterator[str]:
    """The modules of this folder that set ``FAMILY``, told from their text: helpers use torch."""
    for module in iter_modules(__path__, f"{__name__}."):
        spec = find_spec(module.name)
        source = getattr(spec.loader, "get_source", None) if spec else None
        if source is not None and _SETS_FAMILY.search(source(module.name) or ""):
            yield module.name


def _places() -> tuple[_Place, ...]:
    return _places_on(tuple(sys.path))


@cache
def _places_on(path: tuple[str, ...]) -> tuple[_Place, ...]:
    """The entry points of other packages. path: ``sys.path``, which decides them."""
    return tuple(
        dict.fromkeys(
            _Place(entry.name, entry.value, entry.dist.name if entry.dist else "?")
            for entry in metadata.entry_points(group=GROUP)
        )
    )


def _base() -> type[Family]:
    from diffc.models.families.base import Family

    return Family
