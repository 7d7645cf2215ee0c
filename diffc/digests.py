"""The sha256 of files, each of which is read once for as long as nobody writes it.

Weights, ONNX files and engines have gigabytes, and every command asks whether they are as they
were. A later process takes the answer from the cache (``digests/HASH.json``) while a file has the
same place, inode, size, time of writing and time of any change. Nobody puts back the last one,
unlike the time of writing. So whoever alters a file is noticed, as before; a disk that alters one
by itself is not.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from diffc.errors import InputError
from diffc_export.cache import cache_folder
from diffc_runtime.files import file_digest, write_text

KEPT_FROM = 1 << 20
"""Bytes from which an answer is kept for later processes; a smaller file is read as fast."""
_FOLDER = "digests"
_TELLING_NS = 2_000_000_000
"""So long after a change another one has another time, even where file systems keep seconds."""


def file_version(path: Path) -> tuple[int, int, int]:
    """What differs after a file was written or replaced. Raises InputError for one that is gone."""
    facts = _facts(path)
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


def check_unaltered(
    versions: Mapping[Path, tuple[int, int, int]], digests: Mapping[Path, str]
) -> None:
    """Refuse what was made of files that others altered meanwhile.

    Args:
        versions: Each file, as it was before its first byte was read.
        digests: The sha256 of those whose content is known: with the same content they pass.

    Raises:
        InputError: One was written, replaced or removed.
    """
    for path, version in versions.items():
        if path.exists() and file_version(path) == version:
            continue
        if not path.exists() or digests.get(path) != file_digest(path):
            raise InputError(
                f"{path} was altered while it was read",
                hint="leave the model's files as they are during a run, and start it again",
            )


def known_digest(path: Path) -> str:
    """sha256 of a file, which is read once for as long as nobody writes it.

    Raises:
        InputError: The file is gone.
    """
    facts = _facts(path)
    if time.time_ns() - facts.st_ctime_ns < _TELLING_NS:
        return file_digest(path)
    return _digest_of(path.absolute(), _state(facts))


def _facts(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise InputError(
            f"{path.name}, which is missing in {path.parent}, cannot be read: {error.strerror}",
            hint="download or copy the folder again",
        ) from error


def _state(facts: os.stat_result) -> tuple[int, ...]:
    """What differs after any change: device, inode, size, time of writing, time of any change."""
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


@lru_cache(maxsize=4096)
def _digest_of(path: Path, state: tuple[int, ...]) -> str:
    if state[2] < KEPT_FROM:
        return file_digest(path)
    kept = _kept_file(path)
    with suppress(OSError, ValueError, TypeError, KeyError):  # damaged is as good as none
        answer = json.loads(kept.read_text("utf-8"))
        if answer["path"] == str(path) and tuple(answer["state"]) == state:
            return str(answer["sha256"])
    digest = file_digest(path)
    with suppress(OSError):  # a disk that takes no more: it is read again
        answer = {"path": str(path), "state": state, "sha256": digest}
        write_text(kept, json.dumps(answer) + "\n")
    return digest


def _kept_file(path: Path) -> Path:
    name = hashlib.sha256(os.fsencode(path)).hexdigest()[:32]
    return cache_folder() / _FOLDER / f"{name}.json"
