"""What the cache holds, and what of it may go.

    done/NAME-KEY         a stage that is done
    work/NAME-KEY         what a run that was interrupted has left: it goes on from there
    work/NAME-KEY.lock    held while the stage is done
    work/NAME-KEY.used    shared by the runs that use it; its time is that of the last use
    others                what takes seconds to make again (timing, preflight, digests)
    work/removed-...      what a cleaning that was interrupted has left
    done/.NAME-KEY....    what a process has left that was killed while it put a stage there
    trials/KEY            the folders of a search's trials, until it is over

A run shares the ``.used`` lock of each of its stages until its end, so that nothing is taken from
under it.
"""

from __future__ import annotations

import re
import stat
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from diffc.amounts import AGES, BYTES, amount
from diffc.errors import InputError
from diffc.locks import nobody_has, out_lock_file
from diffc.placing import clear_folder
from diffc.stage_records import RECORD

_KEY = 33
"""The length of ``-KEY`` at the end of a folder's name."""
TRIALS = "trials"
"""The folder of the cache that holds the trials of searches that are not over."""
_REMOVED = "removed-"
_RANK = re.compile(r"\.rank[0-9]+$")
"""The end of a working folder's name: one of several processes works there."""
_TEMPORARY = re.compile(r"^\.(.+?)(?:\.old)?\.[0-9a-f]{8}$")
"""A folder that is to become another one, or was one: the other's name is in it."""


@dataclass(frozen=True)
class CacheEntry:
    """One folder of the cache.

    Attributes:
        kind: ``done``; ``unfinished``: what an interrupted run has left.
        folder: The folder.
        size: Of its files, in bytes.
        used: When it was last used, in seconds since 1970.
    """

    kind: Literal["done", "unfinished"]
    folder: Path
    size: int
    used: float

    @property
    def stage(self) -> str:
        """The stage's name."""
        return self.folder.name[:-_KEY] if self.kind == "done" else "unfinished work"


@dataclass(frozen=True)
class Cleaning:
    """What a cleaning has removed, and what it left since a run uses it."""

    removed: list[CacheEntry]
    in_use: list[CacheEntry]


def used_file(cache: Path, name: str) -> Path:
    """The lock that the runs which use ``done/NAME`` share."""
    return cache / "work" / f"{name}.used"


def cache_entries(cache: Path) -> list[CacheEntry]:
    """The stages in the cache, and what interrupted ones have left; the longest unused first."""
    entries = [_entry(cache, "done", folder) for folder in _folders(cache / "done")]
    left = [path for path in (cache / "done").glob(".*") if _TEMPORARY.match(path.name)]
    left += [*_folders(cache / "work"), *_folders(cache / TRIALS)]
    entries += [_entry(cache, "unfinished", folder) for folder in left]
    return sorted(entries, key=lambda entry: (entry.used, entry.folder.name))


def other_bytes(cache: Path) -> int:
    """The size of the rest: what takes seconds to make again."""
    rest = [path for path in _folders(cache) if path.name not in ("done", "work", TRIALS)]
    return sum(map(_size, rest))


def chosen_entries(
    entries: Sequence[CacheEntry], *, older_than: float | None, keep: float | None, now: float
) -> list[CacheEntry]:
    """What goes: what was not used for ``older_than`` seconds, and beyond ``keep`` bytes the rest.

    Args:
        entries: The longest unused first.
        older_than: Seconds; None: age is no reason.
        keep: Bytes that may stay; None: size is no reason.
        now: Seconds since 1970.
    """
    chosen = [e for e in entries if older_than is not None and now - e.used > older_than]
    left = [entry for entry in entries if entry not in chosen]
    total = sum(entry.size for entry in left)
    for entry in left:
        if keep is None or total <= keep:
            break
        chosen.append(entry)
        total -= entry.size
    return chosen


def clean_cache(cache: Path, entries: Iterable[CacheEntry], *, dry_run: bool = False) -> Cleaning:
    """Remove ``entries``, but for those that a run uses or is making now.

    Raises:
        InputError: One cannot be removed; those before it are gone.
    """
    cleaning = Cleaning([], [])
    for entry in entries:
        try:
            free = _remove(cache, entry, dry_run=dry_run)
        except OSError as error:
            raise InputError(
                f"cannot remove {entry.folder}: {error.strerror}",
                hint="clean the cache as a user, and on a machine, that may write to it",
            ) from error
        (cleaning.removed if free else cleaning.in_use).append(entry)
    return cleaning


def seconds_of(text: str) -> float:
    """'30d' as seconds.

    Raises:
        RequestError: It is no age.
    """
    return amount("--older-than", text, AGES, "an amount such as 12h, 30d or 8w", zero=True)


def bytes_of(text: str) -> float:
    """'5GB' as bytes.

    Raises:
        RequestError: It is no size.
    """
    return amount("--keep", text, BYTES, "an amount such as 500MB or 20GB", zero=True)


def _remove(cache: Path, entry: CacheEntry, *, dry_run: bool) -> bool:
    """Remove one entry; False where it is in use. Cut off, it leaves unfinished work."""
    name = _stage_name(entry.folder)
    lock = cache / "work" / f"{name}.lock"
    if entry.folder.parent.name == TRIALS:
        lock = out_lock_file(entry.folder, cache)
    if dry_run:
        return _is_free(used_file(cache, name)) and _is_free(lock)
    with nobody_has(used_file(cache, name)) as unused, nobody_has(lock) as idle:
        if not (unused and idle):
            return False
        # under another name first: a stage of which files are missing would be damaged
        away = cache / "work" / f"{_REMOVED}{time.time_ns()}-{name}"
        entry.folder.rename(away)
        clear_folder(away)
        if not (cache / "done" / name).exists():
            used_file(cache, name).unlink(missing_ok=True)
        return True


def _is_free(lock: Path) -> bool:
    """Whether nobody has a lock now; its file, whose time is that of the last use, is not made."""
    if not lock.exists():
        return True
    with nobody_has(lock) as free:
        return free


def _stage_name(folder: Path) -> str:
    """NAME-KEY, by which the locks are called."""
    temporary = _TEMPORARY.match(folder.name)
    return _RANK.sub("", folder.name if temporary is None else temporary[1])


def _entry(cache: Path, kind: Literal["done", "unfinished"], folder: Path) -> CacheEntry:
    paths = (used_file(cache, _stage_name(folder)), folder / RECORD, folder)
    times = [path.stat().st_mtime for path in paths if path.exists()]
    return CacheEntry(kind, folder, _size(folder), max(times, default=0.0))


def _folders(place: Path) -> list[Path]:
    """The folders in ``place``, but for hidden ones: those are being written."""
    return sorted(path for path in place.glob("[!.]*") if path.is_dir())


def _size(folder: Path) -> int:
    return sum(map(_file_size, folder.rglob("*")))


def _file_size(path: Path) -> int:
    """0 for what is no file, or no more one: a stage that runs removes its older checkpoints."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0
