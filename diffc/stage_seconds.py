"""How long a stage has worked, the attempts that were interrupted with it.

A stage that was killed goes on from what its scratch folder holds. What it took is then the time of
every attempt: a training of hours did not take the minutes after the last kill.
"""

from __future__ import annotations

import math
import time
from contextlib import suppress
from pathlib import Path

from diffc_runtime.files import write_text

_KEPT_EVERY = 10.0
"""So many seconds of work are lost to the count where a process is killed, at most."""


class StageClock:
    """Counts the seconds of a stage's work; a context that keeps them at its end.

    Args:
        path: The file that keeps them for a later attempt; None keeps nothing.
        scratch: What earlier attempts have left; where it is empty they count for nothing.
    """

    def __init__(self, path: Path | None, scratch: Path) -> None:
        self._path = path
        goes_on = path is not None and any(scratch.iterdir())
        self._before = _seconds_in(path) if path is not None and goes_on else 0.0
        self._start = self._written = time.perf_counter()

    def __enter__(self) -> StageClock:
        return self

    def __exit__(self, *_error: object) -> None:
        self.keep()

    @property
    def seconds(self) -> float:
        """Of the work until now."""
        return self._before + time.perf_counter() - self._start

    def tick(self) -> None:
        """Keep the seconds from time to time; a disk that takes no more keeps nothing."""
        if time.perf_counter() - self._written >= _KEPT_EVERY:
            self.keep()

    def keep(self) -> None:
        """Keep the seconds for the attempt that goes on from here."""
        self._written = time.perf_counter()
        if self._path is not None:
            with suppress(OSError):
                write_text(self._path, f"{self.seconds}\n")


def _seconds_in(path: Path) -> float:
    """The seconds in a file; 0 where it is missing or damaged."""
    try:
        seconds = float(path.read_text("utf-8"))
    except (OSError, ValueError):
        return 0.0
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0
