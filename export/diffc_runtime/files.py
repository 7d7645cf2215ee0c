"""Files and folders that are written whole or not at all, and their hashes.

    file_digest, files_digest   sha256 of one file, of several
    new_file                    a temporary file that takes a file's place at the end
    write_bytes, write_text     the same for content that is in memory
    temporary_folder            a folder that is removed at the end
    remove_with                 removes a folder when an object is gone
    new_folder                  a temporary folder that takes a folder's place at the end
    rename_folder               the last step of new_folder
    utf8_path                   a path for libraries that take UTF-8 whatever the locale is
    path_text                   a path for people and for JSON
    no_place                    why no disk has a file or folder of a path
    short_name                  the beginning of a name, to which more is added

Every temporary file or folder lies beside what it becomes: a rename is atomic only inside one file
system. Its name starts with a dot and ends with a random part, so that two writers do not meet.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import InputError

_BLOCK = 1 << 22  # bytes that are read and hashed at once
_LONGEST_NAME, _LONGEST_PATH = 255, 4095
"""Bytes of a name, and of a whole path, that the usual file systems and Linux take at most."""
_SHORT = 200


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def files_digest(paths: Iterable[Path]) -> str:
    """Return the sha256 of several files' names and bytes; the order of ``paths`` is irrelevant."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.name.encode() + file_digest(path).encode())
    return digest.hexdigest()


@contextmanager
def new_file(path: Path, *, flush: bool = False, temporary: Path | None = None) -> Iterator[Path]:
    """Give a temporary path, and rename it to ``path`` when the block ends without an error.

    Folders above ``path`` are made. After an error ``path`` is as it was.

    Args:
        flush: Wait until the content is on the disk before the rename, so that a power failure
            leaves the old file or the new one.
        temporary: The temporary path, where a fixed one is better than a random one: the next
            write then replaces what a killed process has left there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = temporary or path.with_name(f".{short_name(path.name)}.{_random_part()}")
    try:
        yield part
        if flush:
            with part.open("rb+") as file:
                os.fsync(file.fileno())
        part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink()


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``, whole or not at all."""
    with new_file(path) as part:
        part.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8, whole or not at all."""
    with new_file(path) as part:
        part.write_text(text, "utf-8")


@contextmanager
def temporary_folder(parent: Path, name: str = "") -> Iterator[Path]:
    """Make a new folder in ``parent``, and remove what is left of it when the block ends.

    Args:
        parent: Where it lies; made if missing.
        name: The part of its name that a person recognises.
    """
    folder = parent / f".{short_name(name) or 'new'}.{_random_part()}"
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_with(owner: object, folder: Path) -> None:
    """Remove ``folder`` when ``owner`` is gone, or when this process ends.

    Processes that are forked off share it, and leave it when they end.
    """
    weakref.finalize(owner, _remove_in, os.getpid(), folder)


def _remove_in(process: int, folder: Path) -> None:
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def new_folder(goal: Path) -> Iterator[Path]:
    """Give a temporary folder, and put it in the place of ``goal`` when the block ends well.

    After an error ``goal`` is as it was.
    """
    with temporary_folder(goal.parent, goal.name) as folder:
        yield folder
        rename_folder(folder, goal)


def rename_folder(folder: Path, goal: Path) -> None:
    """Put ``folder`` in the place of ``goal``; an old one is moved away first, then removed.

    If the process is killed between the two renames, the old folder lies beside ``goal``.
    """
    goal.parent.mkdir(parents=True, exist_ok=True)
    if not goal.exists():
        folder.rename(goal)
        return
    old = goal.with_name(f".{short_name(goal.name)}.old.{_random_part()}")
    goal.rename(old)
    try:
        folder.rename(goal)
    except OSError:
        old.rename(goal)
        raise
    shutil.rmtree(old, ignore_errors=True)


def utf8_path(path: Path) -> str:
    """Return ``path`` for a library in C++ that takes UTF-8, whatever this process's locale is.

    Raises:
        InputError: The name on the disk is not UTF-8.
    """
    try:
        return os.fsencode(path).decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(
            f"the name {str(path)!a} is not UTF-8, and runtimes take no other",
            hint="rename the folder",
        ) from None


def path_text(path: str | os.PathLike[str]) -> str:
    """Return a path as text that every file takes: a name on a disk may be bytes that are no text.

    Such bytes get the sign for what cannot be shown. Where this process's locale is not UTF-8, the
    text has the letters that the name has in UTF-8.
    """
    return os.fsencode(path).decode("utf-8", "replace")


def no_place(path: str | os.PathLike[str]) -> str | None:
    """Return why no disk has a file or folder of this path, in words; None where one may.

    The system's own answer comes late, and in many forms: ``is_dir`` raises it in some versions of
    Python and is False in others, and above a folder that is not there it is that this is missing.
    """
    parts = Path(path).parts
    try:
        sizes = [len(os.fsencode(part)) for part in parts]
        whole = len(os.fsencode(path))
    except UnicodeEncodeError:
        return "it has a character that no file's name has"
    if any("\0" in part for part in parts):
        return "it has a character that no file's name has"
    longest = max(sizes, default=0)
    if longest > _LONGEST_NAME:
        start = parts[sizes.index(longest)][:20]
        return f"the name '{start}...' has {longest} bytes, and at most {_LONGEST_NAME} fit"
    if whole > _LONGEST_PATH:
        return f"it has {whole} bytes, and at most {_LONGEST_PATH} fit"
    return None


def short_name(name: str) -> str:
    """Return the beginning of a name, where more is added: a name has at most 255 bytes."""
    return os.fsdecode(os.fsencode(name)[:_SHORT].decode("utf-8", "ignore").encode())


def _random_part() -> str:
    return uuid.uuid4().hex[:8]
