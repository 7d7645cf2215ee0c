"""Locks that die with the process that holds them.

stage_lock   one process at a time does a stage
out_lock     one process at a time changes an output folder
use_lock     this process uses a stage of the cache: it is not to be cleaned away
nobody_has   whether such a lock is free; it is then held for the block
"""

from __future__ import annotations

import errno
import hashlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diffc.errors import RequestError

_UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


class StageBusy(RequestError):
    """Another process is doing the stage."""


@contextmanager
def stage_lock(work: Path) -> Iterator[None]:
    """Hold the lock of a stage's working folder, beside it: ``work/NAME-KEY.lock``.

    On a system or a disk without locks, a warning says so and the work goes on.

    Raises:
        StageBusy: Another process holds the lock.
    """
    busy = StageBusy(
        f"another diffc is doing '{work.name.rpartition('-')[0]}' with the same options",
        hint="wait for it to finish; its result is then reused",
    )
    with _lock(work.parent / f"{work.name}.lock", busy):
        yield


@contextmanager
def out_lock(out: Path, cache: Path) -> Iterator[None]:
    """Hold the lock of an output folder, which lies in the cache: ``work/out-HASH.lock``.

    Two runs in one folder would build engines of each other's files, and keep them in the cache
    under a key of their own. Without locks it goes on as ``stage_lock`` does.

    Args:
        out: The output folder; it may be missing yet.
        cache: The cache's folder.

    Raises:
        RequestError: Another process holds the lock.
    """
    busy = RequestError(
        f"another diffc works in {out}",
        hint="wait for it to finish; another folder (--out) can be worked in meanwhile",
    )
    with _lock(out_lock_file(out, cache), busy):
        yield


def out_lock_file(out: Path, cache: Path) -> Path:
    """The file of ``out_lock``."""
    name = hashlib.sha256(os.fsencode(out.resolve())).hexdigest()[:32]
    return cache / "work" / f"out-{name}.lock"


@contextmanager
def _lock(path: Path, busy: RequestError) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # not on this system: two runs at once are the user's care there
        yield
        return
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise busy from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            warnings.warn(
                f"{path.parent} is on a disk without locks ({error.strerror}): do not start the "
                "same run twice at once",
                stacklevel=3,
            )
        yield


def use_lock(path: Path) -> int | None:
    """Share the lock at ``path`` until the descriptor is closed; its time is that of the last use.

    Returns:
        The descriptor; None on a system or a disk without locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:
        return None
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)  # waits while the stage is being cleaned away
            if _is_at(descriptor, path):  # a cleaning removes the file at its end
                os.utime(descriptor)
                return descriptor
        except OSError as error:
            os.close(descriptor)
            if error.errno not in _NO_LOCKS:
                raise
            return None
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is the one that lies at ``path`` now."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def nobody_has(path: Path) -> Iterator[bool]:
    """Hold the lock at ``path`` alone; False if it is taken, or without locks here.

    Where nothing can be written, a lock that is not there is nobody's.
    """
    try:
        import fcntl
    except ImportError:
        yield False
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("a")
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        if not path.is_file():
            yield True
            return
        lock = path.open()
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True
