"""Writing into a folder that may hold other people's files.

bundle.json lists every file that diffc wrote, with its hash. A folder that is not empty is refused
without force; with force, diffc replaces and removes only files that are unchanged since it wrote
them. Everything is made beside the folder first, so a failure leaves the folder unchanged.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import diffc
from diffc.errors import RequestError
from diffc_runtime.files import file_digest, temporary_folder
from diffc_runtime.json_types import JsonObject

MANIFEST = "bundle.json"
_HIDING = ("triton",)
"""PyTorch imports this package where it is, and any folder of the name in the working directory
is one to Python."""
FORMAT = 1


TO = "--to"
"""The flag that names the folder, where no other is said to."""


@dataclass(frozen=True)
class Destination:
    """A folder to write into, and what the user calls it.

    Attributes:
        path: The folder.
        flag: The flag that it comes from, for errors.
    """

    path: Path
    flag: str = TO

    def check_free(self, force: bool) -> None:
        """Refuse a folder that cannot be written, or that is not empty.

        Args:
            force: True accepts a folder that is not empty.

        Raises:
            RequestError: The folder is a file, cannot be written, is not empty, or has the name
                of a package that PyTorch asks for.
        """
        path, flag = self.path, self.flag
        if path.resolve().name in _HIDING:
            raise RequestError(
                f"a folder named '{path.resolve().name}' breaks PyTorch in every program that is "
                "started beside it, which takes the folder for the package of that name",
                hint=f"{flag} {path}-models, or any other name",
            )
        there = next(
            (one for one in (path, *path.absolute().parents) if os.path.lexists(one)), path
        )
        hint = self._another()
        if not there.is_dir():
            raise RequestError(f"{flag}: {there} is a file, not a folder", hint=hint)
        if not os.access(there, os.W_OK | os.X_OK):
            raise RequestError(f"{flag}: {there} cannot be written into by this user", hint=hint)
        if not force and path.is_dir() and any(path.iterdir()):
            hint = "name a new folder, or --force to write into it; nothing else in it is touched"
            raise RequestError(f"{flag} {path} is not empty", hint=hint)

    def check_replaceable(self) -> None:
        """Refuse the folder unless it is free, or holds a bundle as diffc wrote it.

        Raises:
            RequestError: The folder holds something else.
        """
        self.check_free(force=True)
        if not self.path.is_dir() or not any(self.path.iterdir()):
            return
        earlier = _earlier_files(self.path)
        if not earlier:
            message = f"{self.flag}: {self.path} is not empty, and diffc did not make it"
            raise RequestError(message, hint=f"move it, or {self._another()}")
        self._check_in_the_way([name for name in earlier if (self.path / name).exists()], earlier)

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """Provide a temporary folder beside this one, which is removed at the end.

        Raises:
            RequestError: No folder can be made there.
        """
        with ExitStack() as stack:
            try:
                new = stack.enter_context(temporary_folder(self.path.parent, self.path.name))
            except OSError as error:
                raise RequestError(
                    f"{self.flag}: cannot write beside {self.path}: {error.strerror}",
                    hint=self._another(),
                ) from None
            yield new

    def move_in(self, new: Path, about: JsonObject) -> list[str]:
        """Move every file of a new folder into place.

        Files of an earlier bundle that the new one does not have are removed.

        Args:
            new: The folder with the new files.
            about: Further content of bundle.json.

        Returns:
            The names of the files, bundle.json last.

        Raises:
            RequestError: A file is in the way that diffc did not make, or that was changed since.
                Nothing is changed then.
        """
        to = self.path
        files = sorted(path for path in new.rglob("*") if path.is_file())
        hashes = {str(path.relative_to(new)): file_digest(path) for path in files}
        earlier = _earlier_files(to)
        self._check_in_the_way([*hashes, MANIFEST], earlier)
        made_by = f"diffc {diffc.__version__}"
        content = {"format": FORMAT, "made_by": made_by, **about, "files": hashes}
        (new / MANIFEST).write_text(json.dumps(content, indent=2) + "\n")
        for name in [*hashes, MANIFEST]:
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            (new / name).replace(to / name)
        _remove_stale(to, earlier, hashes)
        return [*hashes, MANIFEST]

    def _check_in_the_way(self, names: list[str], earlier: Mapping[str, str]) -> None:
        to = self.path
        for name in names:
            path = to / name
            blocked = [p for p in path.parents if p != to and to in p.parents and p.is_file()]
            other = path if path.is_symlink() or path.is_dir() else next(iter(blocked), None)
            if other is not None:
                raise self._in_the_way(f"{other} is in the way, and diffc did not make it")
            if path.exists() and earlier.get(name) != file_digest(path):
                changed = "was changed since diffc made it" if name in earlier else "is not diffc's"
                raise self._in_the_way(f"{path} is in the way and {changed}")

    def _in_the_way(self, words: str) -> RequestError:
        return RequestError(f"{self.flag}: {words}", hint=f"move it, or {self._another()}")

    def _another(self) -> str:
        """What to do about a folder that cannot be used; --bundle's lies in the one of --out."""
        return f"choose another folder with {self.flag if self.flag == TO else '--out'}"


def _earlier_files(to: Path) -> dict[str, str]:
    """Return the files that the manifest in ``to`` lists; {} if the manifest is not diffc's."""
    try:
        content = json.loads((to / MANIFEST).read_text())
        files = content["files"]
        is_ours = str(content["made_by"]).startswith("diffc ") and content["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    if not is_ours or not isinstance(files, dict):
        return {}
    inside = {k: str(v) for k, v in files.items() if _is_inside(k)}
    return {**inside, MANIFEST: file_digest(to / MANIFEST)}


def _is_inside(name: str) -> bool:
    return not Path(name).is_absolute() and ".." not in Path(name).parts


def _remove_stale(to: Path, earlier: Mapping[str, str], hashes: Mapping[str, str]) -> None:
    """Remove the earlier bundle's unchanged files that the new one lacks, then empty folders."""
    for name, written in earlier.items():
        path = to / name
        if name in hashes or name == MANIFEST or path.is_symlink() or not path.is_file():
            continue
        if file_digest(path) == written:
            path.unlink()
            _remove_empty(path.parent, to)


def _remove_empty(folder: Path, top: Path) -> None:
    while folder != top and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def copy_file(source: Path, to: Path) -> None:
    """Copy one file, and create the folders above it."""
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, to)


def copy_package(source: Path, to: Path) -> None:
    """Copy a package's Python files."""
    for file in sorted(source.glob("*.py")):
        copy_file(file, to / file.name)
