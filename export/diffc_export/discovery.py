"""Discovery of what diffc is made of: the files of a folder, and what other packages add.

    Registry        things of one kind by name, from both places: targets, metrics, ...
    module_files    the modules of a package that set a name, such as ``TARGET``
    entry_points    what installed distributions add to a group of entry points
    load            the thing behind an entry point, or why it cannot be used
    added_code      the entry point whose code raised an exception

A thing of another package is imported when it is needed, so that a broken one stops nothing
else. Listing names imports nothing.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING, Generic, TypeVar

from diffc_runtime.errors import RequestError, UnavailableError, in_short, unknown

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

T = TypeVar("T")


@dataclass(frozen=True)
class EntryPoint:
    """One entry point of an installed distribution.

    Attributes:
        name: The name that diffc knows the thing by.
        module: The module that has it.
        attribute: Its name in the module; empty where the entry point gives none.
        package: The distribution's name.
        version: The distribution's version.
    """

    name: str
    module: str
    attribute: str
    package: str
    version: str

    @property
    def value(self) -> str:
        """The module and the attribute, as pyproject.toml has them."""
        return f"{self.module}:{self.attribute}" if self.attribute else self.module

    def __str__(self) -> str:
        return f"{self.module} ({self.package} {self.version})"


def entry_points(group: str) -> tuple[EntryPoint, ...]:
    """The entry points of ``group`` that the distributions on the import path have."""
    return _entry_points_on(group, tuple(sys.path))


@cache
def _entry_points_on(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """The entry points of a group, each once. ``path`` is ``sys.path``, the cache's key."""
    points = []
    for point in _search(path)(group=group):
        package, version = (point.dist.name, point.dist.version) if point.dist else ("?", "?")
        points.append(EntryPoint(point.name, point.module, point.attr or "", package, version))
    return tuple(dict.fromkeys(points))


@cache
def _search(path: tuple[str, ...]) -> Callable[..., EntryPoints]:
    """Selects from all entry points: reading them takes a while, so it is done once a path."""
    from importlib import metadata

    return metadata.entry_points().select


def load(point: EntryPoint, attribute: str) -> tuple[object, str]:
    """Import what an entry point names. What its module prints goes to stderr.

    Args:
        point: The entry point.
        attribute: The attribute of the module where the entry point names none.

    Returns:
        The thing and an empty string, or None and one line on why the import failed.
    """
    attribute = point.attribute or attribute
    try:
        with redirect_stdout(sys.stderr):  # stdout is for answers: --json promises nothing else
            module = import_module(point.module)
        missing = "" if hasattr(module, attribute) else f"it sets no {attribute}"
        return getattr(module, attribute, None), missing
    except (Exception, SystemExit) as error:  # foreign code may raise anything
        words = in_short(error)
        return None, f"{type(error).__name__}: {words}" if words else type(error).__name__


def added_code(error: BaseException) -> EntryPoint | None:
    """The entry point of another distribution in whose module an exception was raised or passed by.

    Returns:
        The one nearest to the place where the exception was raised; None where there is none.
    """
    from importlib import metadata

    groups = [group for group in metadata.entry_points().groups if group.startswith("diffc.")]
    by_module = {point.module: point for group in groups for point in entry_points(group)}
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    modules = (str(frame.f_globals.get("__name__")) for frame in reversed(frames))
    return next((by_module[name] for name in modules if name in by_module), None)


@cache
def module_files(package: str, attribute: str) -> dict[str, str]:
    """The modules of a package that set ``attribute`` at their top level.

    The text of each file tells, so nothing but the package itself is imported.

    Returns:
        File name without ``.py`` -> module name, sorted by file name.
    """
    spec = find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    sets = re.compile(rf"^{attribute}\b", re.MULTILINE)
    stems = [
        file.stem
        for folder in folders or ()
        for file in sorted(Path(folder).glob("*.py"))
        if file.stem != "__init__" and sets.search(file.read_text("utf-8"))
    ]
    return {stem: f"{package}.{stem}" for stem in stems}


class Registry(Generic[T]):
    """Things of one kind by name: diffc's own files, and those of other distributions.

    The file ``ort_cpu.py`` of the package is the thing called ``ort-cpu``.
    """

    def __init__(
        self,
        kind: str,
        package: str,
        attribute: str,
        *,
        fault: Callable[[str, object], str],
        unlisted: frozenset[str] = frozenset(),
    ) -> None:
        """Describe a kind.

        Args:
            kind: What messages call a thing of this kind: ``target``. The group of entry points
                is ``diffc.targets`` then.
            package: The package whose files are diffc's own.
            attribute: What a file sets: ``TARGET``.
            fault: Takes a name and the thing that another distribution gives for it. Returns what
                is wrong with the thing, or an empty string.
            unlisted: Names that can be asked for and stand in no list.
        """
        self.kind = kind
        self.group = f"diffc.{kind}s"
        self._package = package
        self._attribute = attribute
        self._fault = fault
        self._unlisted = unlisted
        self._registered: dict[str, str] = {}

    def register(self, name: str, module: str) -> None:
        """Add a thing by its module, which is imported when the thing is asked for."""
        self._registered[name] = module

    def names(self) -> list[str]:
        """Every listed name, diffc's own first."""
        return list(dict.fromkeys([*self.own_names(), *(p.name for p in entry_points(self.group))]))

    def own_names(self) -> list[str]:
        """The names of diffc's own things; the installed distributions are not searched."""
        return [name for name in self._own() if name not in self._unlisted]

    def get(self, name: str) -> T:
        """Return the thing called ``name``.

        Raises:
            RequestError: No thing is called so (with the nearest names), or two are.
            UnavailableError: It is another distribution's, and cannot be imported or lacks a part.
        """
        module = self._own().get(name)
        points = self._points(name)
        claims = [*([f"{module} (diffc)"] if module else []), *map(str, points)]
        if not claims:
            raise unknown(self.kind, name, self.names())
        if len(claims) > 1:
            raise RequestError(
                f"two {self.kind}s are called '{name}': {' and '.join(claims)}",
                hint=f"uninstall one, or rename its entry point and its {self.kind}",
            )
        if module is None:
            return self._foreign(points[0])
        own: T = getattr(import_module(module), self._attribute)
        return own

    def package_of(self, name: str) -> str | None:
        """The distribution that adds the thing; None for one of diffc's own."""
        points = self._points(name)
        return points[0].package if points and name not in self._own() else None

    def problems(self) -> dict[str, str]:
        """Name -> one line on why a listed thing cannot be used."""
        reasons = {}
        for name in self.names():
            try:
                self.get(name)
            except (RequestError, UnavailableError) as error:
                reasons[name] = f"{error} ({error.hint})" if error.hint else str(error)
        return reasons

    def usable(self) -> dict[str, T]:
        """Every listed thing that can be used, by name; imports the file of each."""
        broken = self.problems()
        return {name: self.get(name) for name in self.names() if name not in broken}

    def _own(self) -> dict[str, str]:
        """Name -> module of diffc's own things and the registered ones."""
        files = module_files(self._package, self._attribute)
        return {s.replace("_", "-"): module for s, module in files.items()} | self._registered

    def _points(self, name: str) -> list[EntryPoint]:
        return [point for point in entry_points(self.group) if point.name == name]

    def _foreign(self, point: EntryPoint) -> T:
        """Another distribution's thing, checked."""
        thing: T
        thing, reason = load(point, self._attribute)  # type: ignore[assignment]
        reason = reason or self._fault(point.name, thing)
        if reason:
            raise UnavailableError(
                f"{self.kind} '{point.name}' of {point} cannot be used: {reason}",
                hint=f"mend or uninstall {point.package}",
            )
        return thing
