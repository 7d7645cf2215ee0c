"""Puts files of the cache into an output folder, so that a change of one never reaches the other.

An output folder is the user's: its files are edited, written over and trained on. So it has files
of its own. If the file system can (Btrfs, XFS, bcachefs, ...), such a copy shares its blocks with
the cache until one of the two is written (a reflink), and takes no room. Elsewhere it is a plain
copy, with one exception: large engines and ONNX files, which are never written to, are hard links
to a file that is made read-only. A user who can write to read-only files, such as root, gets
copies.
"""

from __future__ import annotations

import filecmp
import os
import re
import shutil
import stat
from glob import escape
from pathlib import Path

from diffc_runtime.files import new_file, new_folder, short_name

LARGE = 64 * 1024 * 1024
"""Files of an engine or an ONNX folder from this size in bytes may be hard links."""

_LINKED = ("onnx", "engines")
_READ_BY_PEOPLE = (".json", ".yaml", ".md", ".txt")
_CARDS = (Path("README.md"),)  # of a model: written with the report, into a stage's folder
_BY_CONTENT = 1024 * 1024  # smaller files are compared by content, larger by size and time
_RANDOM = re.compile(r"(\.old)?\.[0-9a-f]{8}")  # the end of a temporary name (files.py)
_FICLONE = 0x40049409  # linux/fs.h; fcntl.FICLONE is there from Python 3.12 on


def place(origin: Path, goal: Path, where: str) -> None:
    """Put a file or a folder of the cache at ``goal``, whole or not at all.

    Identical files that are already there stay. What a process that was killed here has left beside
    ``goal`` goes: nobody else works in the output folder.

    Args:
        origin: The file or folder in the cache.
        goal: Its place in the output folder.
        where: The goal's path in the output folder (``onnx/dense``), which decides how it is
            placed.
    """
    links = where.split("/")[0] in _LINKED
    _clear_left(goal)
    if not origin.is_dir():
        if not _is_placed(origin, goal, links):
            place_file(origin, goal, links=links)
        return
    files = sorted(path.relative_to(origin) for path in origin.rglob("*") if path.is_file())
    there = [name for name in _files_in(goal) if name not in _CARDS or name in files]
    if there == files and all(_is_placed(origin / f, goal / f, links) for f in files):
        return
    with new_folder(goal) as folder:
        for name in files:
            place_file(origin / name, folder / name, links=links)


def place_file(origin: Path, goal: Path, *, links: bool = False) -> None:
    """Put one file at ``goal``: a reflink, a hard link if ``links`` allows it, or a copy."""
    with new_file(goal) as temporary:
        linked = not _reflink(origin, temporary) and links and _hard_link(origin, temporary)
        if not linked:
            if not temporary.exists():
                shutil.copyfile(origin, temporary)
            times = origin.stat()  # by which a large file is known not to have changed
            os.utime(temporary, ns=(times.st_atime_ns, times.st_mtime_ns))


def clear_folder(folder: Path) -> None:
    """Remove everything at ``folder``, even folders without write permission.

    A folder that does not exist is fine.
    """
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    if not folder.exists():
        return
    folder.chmod(folder.stat().st_mode | stat.S_IRWXU)
    for root, names, _ in os.walk(folder):
        for name in names:
            path = Path(root, name)
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | stat.S_IRWXU)
    shutil.rmtree(folder)


def _clear_left(goal: Path) -> None:
    """Remove temporary files and folders that were to become ``goal``."""
    name = short_name(goal.name)
    for path in goal.parent.glob(f".{escape(name)}.*"):
        if _RANDOM.fullmatch(path.name.removeprefix(f".{name}")):
            clear_folder(path)


def _files_in(folder: Path) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def _is_placed(origin: Path, goal: Path, links: bool) -> bool:
    """True if ``goal`` is a separate file with the content of ``origin``."""
    if not goal.is_file() or goal.is_symlink():
        return False
    ours, theirs = goal.stat(), origin.stat()
    if (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino):
        return links and _may_link(origin) and not os.access(goal, os.W_OK)
    if ours.st_size != theirs.st_size:
        return False
    if ours.st_size < _BY_CONTENT:
        return filecmp.cmp(origin, goal, shallow=False)
    return ours.st_mtime_ns == theirs.st_mtime_ns


def _may_link(origin: Path) -> bool:
    return origin.suffix not in _READ_BY_PEOPLE and origin.stat().st_size >= LARGE


def _hard_link(origin: Path, goal: Path) -> bool:
    """Hard-link a large file that can no longer be written; return False if that is impossible."""
    if not _may_link(origin):
        return False
    try:
        origin.chmod(origin.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
        if os.access(origin, os.W_OK):  # root writes to read-only files
            return False
        os.link(origin, goal)
    except OSError:  # another file system, one without hard links, or somebody else's file
        return False
    return True


def _reflink(origin: Path, goal: Path) -> bool:
    """Copy with shared blocks until one is written; return False if the file system cannot."""
    try:
        import fcntl
    except ImportError:  # not on this system
        return False
    with origin.open("rb") as source, goal.open("xb") as copy:
        try:
            fcntl.ioctl(copy.fileno(), _FICLONE, source.fileno())
        except OSError:
            done = False
        else:
            done = True
    if not done:
        goal.unlink()
    return done


def move_files(source: Path, goal: Path) -> None:
    """Put the files of one folder into another, over those of the same names.

    Args:
        source: The folder; it may be missing. Its folders stay, empty.
        goal: Where the files go, on the same file system.
    """
    for path in sorted(source.rglob("*")):
        if path.is_file():
            moved = goal / path.relative_to(source)
            moved.parent.mkdir(parents=True, exist_ok=True)
            path.replace(moved)
