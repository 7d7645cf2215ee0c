"""The folders that diffc writes to, and what is said when a disk cannot take or give a file.

user_path     a path as a person writes it, ``~`` included
check_place   refuse a folder that cannot be made or written; nothing is made
disk_errors   an error of a disk as one line that names the place
temporary_folder  a folder for temporary files; says whose disk is full
write_array   every byte of an array, or an error
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from diffc_runtime.errors import DiffcError, InputError, RequestError, value_words
from diffc_runtime.files import no_place

if TYPE_CHECKING:
    from diffc_export.targets.base import Array

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The numbers of errors of a disk that has no room."""
_UNWRITABLE = (*FULL, errno.EROFS)
_NO_DISK = (ConnectionError, TimeoutError, InterruptedError, ChildProcessError, BlockingIOError)
_BUGS = (TypeError, AttributeError, LookupError, AssertionError, NameError)
WHERE_ELSE = "or choose another --out or DIFFC_CACHE; what was done is kept"
"""What else a run can do; a command that has no --out says it in its own words."""
_LEAST_FREE = 64 * 1024
"""Bytes: a disk with less free is taken for full when a library fails without a reason."""
_TEMPORARY = re.compile(r"tmp[a-z0-9_]{8}")
"""The names that ``tempfile`` gives."""


class DiskError(InputError):
    """A disk takes or gives no more.

    Attributes:
        cure: What to do about the place itself.
    """

    def __init__(self, message: str, cure: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint or f"{cure}, {WHERE_ELSE}")
        self.cure = cure


def user_path(text: str | Path, name: str = "") -> Path:
    """``text`` as a path, with the home folder in the place of a leading ``~``.

    Args:
        text: what a person gave.
        name: the flag or argument that has it, for errors; "" for none.

    Raises:
        RequestError: It is no path, no disk has one so long, or the home folder is not known.
    """
    before = f"{name}: " if name else ""
    if not isinstance(text, str | os.PathLike):
        raise RequestError(f"{before}a path is a text or a pathlib.Path, not {value_words(text)}")
    reason = no_place(text)
    if reason is not None:
        raise RequestError(before + reason, hint="give another path")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise RequestError(
            f"{before}'{text}' begins with a home folder, and nothing here says where that is",
            hint="write the path in full, or set HOME; a name that begins so is written ./~NAME",
        ) from None


def check_place(folder: Path, name: str) -> None:
    """Refuse a folder that cannot be made or written; nothing is made.

    Args:
        folder: where something is to be written later.
        name: the flag or variable that it comes from.

    Raises:
        InputError: naming the part of the path that is in the way.
    """
    there = next((path for path in (folder, *folder.parents) if os.path.lexists(path)), Path())
    hint = f"choose another folder with {name}"
    if not there.is_dir():
        kind = "a file" if there.is_file() else "no folder"
        where = f"{name} {folder}" if there == folder else f"cannot write {folder}: {there}"
        raise InputError(f"{where} is {kind}", hint=hint)
    if not os.access(there, os.W_OK | os.X_OK):
        read_only = os.statvfs(there).f_flag & os.ST_RDONLY
        reason = os.strerror(errno.EROFS if read_only else errno.EACCES)
        if name == "--out":  # not every verb that writes there has that flag
            raise DiskError(f"cannot write {folder}: {reason}", "change the rights there", hint)
        raise InputError(f"cannot write {folder}: {reason}", hint=hint)


@contextmanager
def disk_errors(*places: Path) -> Iterator[None]:
    """Turn an error of a disk into an InputError that says where; what was done is kept.

    Args:
        places: where the work inside writes, the likeliest first.
    """
    try:
        yield
    except DiffcError:
        raise
    except Exception as error:
        line = disk_error(error, places)
        if line is None:
            raise
        raise line from error


def disk_error(error: Exception, places: Sequence[Path] = ()) -> InputError | None:
    """The line for an error of a disk; None for every other error."""
    if isinstance(error, shutil.Error):
        return _copy_error(error)
    if isinstance(error, _NO_DISK):
        return None
    if isinstance(error, OSError) and error.errno is not None:
        return _system_error(error, error.errno, places)
    # libraries in other languages carry the system's words in their own exceptions
    code = next((c for c in _UNWRITABLE if os.strerror(c) in str(error)), None)
    if code is not None:
        return _line(_full_disk(places) or _first(places), code)
    full = None if isinstance(error, _BUGS) else _full_disk(places)
    if full is None:
        return None
    words = f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"
    return _line(full, errno.ENOSPC, said=f" ({words})")


def _system_error(error: OSError, code: int, places: Sequence[Path]) -> InputError | None:
    if "temporary directory" in str(error.strerror):
        return InputError(
            "there is no folder for temporary files: none of TMPDIR, /tmp, ... can be written",
            hint="set TMPDIR to a folder with room",
        )
    name = error.filename2 or error.filename  # of a copy the first one is only read
    path = Path(os.fsdecode(name)) if isinstance(name, str | bytes) else None
    if path is None:
        where = _full_disk(places) or _first(places)
        return _line(where, code) if code in _UNWRITABLE else None
    if code == errno.ENOENT and not _is_below(path, places):
        return None  # a file of ours that is missing is a bug, and shows its traceback
    return _line(path, code, places)


def _first(places: Sequence[Path]) -> Path | None:
    return places[0] if places else None


def _line(
    path: Path | None, code: int, places: Sequence[Path] = (), *, said: str = ""
) -> InputError:
    """path: None where it is not known. said: words of a library, to stand after the system's."""
    reason, temporary = os.strerror(code) + said, Path(tempfile.gettempdir())
    if path is not None and code in FULL and _is_temporary(path, temporary):
        return _no_room(temporary, reason)
    writes = code in _UNWRITABLE or path is None or _is_below(path, places)
    verb, where = "write" if writes else "read or write", path or "the answer to stdout, or a file"
    cure = "free some space" if code in FULL else "change the rights, or what is in the way"
    return DiskError(f"cannot {verb} {where}: {reason}", cure)


def _copy_error(error: shutil.Error) -> InputError:
    """shutil's has one (source, goal, reason) for every file that could not be copied."""
    first = error.args[0][0] if isinstance(error.args[0], list) else error.args
    if len(first) != 3:
        return InputError(f"cannot copy: {str(error).splitlines()[0]}")
    source, goal, reason = first
    words = re.sub(r"^\[Errno \d+\] |: '.*$", "", str(reason))
    return DiskError(f"cannot copy {source} to {goal}: {words}", "free some space")


@contextmanager
def temporary_folder(needed: int = 0) -> Iterator[Path]:
    """A folder for temporary files, removed at the end.

    A library that fails inside because the disk is full does not say so: it blames the model.

    Args:
        needed: bytes that will be written there, as far as they are known.

    Raises:
        InputError: naming TMPDIR, where there is not so much room.
    """
    place = Path(tempfile.gettempdir())
    free = _free(place)
    if free < needed:
        raise _no_room(place, f"{needed / 1e6:.1f} MB are needed, {free / 1e6:.1f} MB are free")
    with tempfile.TemporaryDirectory() as folder:
        try:
            yield Path(folder)
        except Exception as error:
            if isinstance(error, _BUGS) or _free(place) >= _LEAST_FREE:
                raise
            raise _no_room(place, os.strerror(errno.ENOSPC)) from error


def write_array(array: Array, file: BinaryIO) -> None:
    """Append the bytes of an array to a file.

    numpy's own ``tofile`` says nothing where a full disk takes all but the last of them.
    """
    import numpy as np

    file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _no_room(temporary: Path, reason: str) -> InputError:
    return InputError(
        f"no room for temporary files in {temporary} (TMPDIR): {reason}",
        hint="set TMPDIR to a folder with more room; what was done is kept",
    )


def _is_temporary(path: Path, temporary: Path) -> bool:
    """Whether ``path`` is the folder for temporary files, or one that ``tempfile`` made in it."""
    if path == temporary:
        return True
    inside = path.parts[len(temporary.parts) :] if path.is_relative_to(temporary) else ()
    return bool(inside) and _TEMPORARY.fullmatch(inside[0]) is not None


def _is_below(path: Path, places: Sequence[Path]) -> bool:
    absolute = path.absolute()
    return any(absolute.is_relative_to(place.absolute()) for place in places)


def _full_disk(places: Sequence[Path]) -> Path | None:
    """The one of ``places`` and the folder for temporary files that has no room, if any."""
    fullest = min((*places, Path(tempfile.gettempdir())), key=_free)
    return fullest if _free(fullest) < _LEAST_FREE else None


def _free(place: Path) -> int:
    """Free bytes of the disk that ``place`` is on, or will be."""
    for path in (place, *place.parents):
        try:
            return shutil.disk_usage(path).free
        except OSError:
            continue
    return 1 << 62
