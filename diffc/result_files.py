"""The files that a user names for a result: tried before the measurement, written after it.

A measurement takes minutes. Whatever would lose its result (a folder that does not exist, a full or
read-only disk, a folder in place of a file) is reported before it begins.
"""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from diffc.errors import InputError, RequestError
from diffc_export.disks import FULL
from diffc_runtime.files import write_bytes

_TRIED_BYTES = 1 << 16


def check_outputs(outputs: Mapping[str, Path | None]) -> None:
    """Make the folders of ``outputs`` and try to write there; no file remains.

    Args:
        outputs: flag -> file; None: the flag was not given.

    Raises:
        RequestError: two flags name one file.
        InputError: a file cannot be written, with the flag and the system's reason.
    """
    given = {flag: path for flag, path in outputs.items() if path is not None}
    flags: dict[Path, str] = {}
    for flag, path in given.items():
        place = path.resolve()
        if place in flags and not _is_device(path):
            raise RequestError(f"{flags[place]} and {flag} are the same file: {path}")
        flags[place] = flag
    for flag, path in given.items():
        with writing(path, flag):
            _try_file(path)


def check_folder(folder: Path, flag: str) -> None:
    """Make the folder's parent and try to write there.

    Raises:
        InputError: ``folder`` is a file, or its parent cannot be written to.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{flag} {folder} is a file", hint="give a folder")
    with writing(folder, flag):
        _make_folder(folder.absolute().parent)
        _try_in(folder.parent)


def write_whole(path: Path, content: str | bytes) -> None:
    """Replace ``path`` as a whole; write into a device or a pipe (/dev/null, /dev/stderr)."""
    data = content.encode() if isinstance(content, str) else content
    if _is_device(path):
        path.write_bytes(data)
    else:
        write_bytes(path, data)


def append_text(path: Path, text: str) -> None:
    """Add ``text`` at the end."""
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


@contextmanager
def writing(path: Path, flag: str) -> Iterator[None]:
    """Turn an OSError inside the block into an InputError that names the flag and the path."""
    try:
        yield
    except OSError as error:
        where = f"{flag} {path}".strip()
        cure = "free some space there" if error.errno in FULL else "change the rights there"
        raise InputError(
            f"cannot write {where}: {_reason(error)}", hint=f"{cure}, or give another path"
        ) from error


def _reason(error: OSError) -> str:
    """The system's words. shutil.Error has many and no number: the words for its first file."""
    if error.strerror:
        return error.strerror
    if error.args and isinstance(error.args[0], list) and error.args[0]:
        return re.sub(r"^\[Errno \d+\] |: '.*$", "", str(error.args[0][0][-1]))
    return str(error) or type(error).__name__


def _is_device(path: Path) -> bool:
    return path.exists() and not path.is_file() and not path.is_dir()


def _make_folder(folder: Path) -> None:
    """Make the folder with its parents. Raises OSError; it names a file that is in the way."""
    there = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, f"'{there}' is not a folder", str(folder))
    folder.mkdir(parents=True, exist_ok=True)


def _try_file(path: Path) -> None:
    _make_folder(path.absolute().parent)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    if _is_device(path):
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, "it cannot be written to", str(path))
        return
    if path.exists():
        path.open("ab").close()
    _try_in(path.parent)


def _try_in(folder: Path) -> None:
    """Write a file of some size in ``folder``, and remove it."""
    with tempfile.NamedTemporaryFile(prefix=".diffc-tried-", dir=folder) as file:
        file.write(b"\0" * _TRIED_BYTES)
        file.flush()
