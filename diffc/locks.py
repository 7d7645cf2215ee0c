"""One process at a time: a lock that dies with the process that holds it."""

from __future__ import annotations

import errno
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diffc.errors import RequestError

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


@contextmanager
def stage_lock(work: Path) -> Iterator[None]:
    """Hold the lock of a stage's working folder, beside it: ``work/NAME-KEY.lock``.

    On a system or a disk without locks, a warning says so and the work goes on.

    Raises:
        RequestError: Another process holds the lock.
    """
    work.parent.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # not on this system: two runs at once are the user's care there
        yield
        return
    with (work.parent / f"{work.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RequestError(
                f"another diffc is doing '{work.name.rpartition('-')[0]}' with the same options",
                hint="wait for it to finish; its result is then reused",
            ) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            warnings.warn(
                f"{work.parent} is on a disk without locks ({error.strerror}): do not start the "
                "same run twice at once",
                stacklevel=2,
            )
        yield
