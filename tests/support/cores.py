"""Which cores a worker of a test session uses: its own, where there are enough for all workers.

An engine takes every core that its process may use. Two workers whose engines have two threads each
on two cores wait for each other at every layer, and spend more time on waiting than on the work.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
"""The cores of the session, before a worker kept to its own."""


def stay_on_own_cores() -> None:
    """Pin this worker process to its share of the cores; nothing without workers, or few cores."""
    number = re.fullmatch(r"gw(\d+)", os.environ.get("PYTEST_XDIST_WORKER", ""))
    if number is None or not CORES:
        return
    own = CORES[int(number[1]) :: int(os.environ["PYTEST_XDIST_WORKER_COUNT"])]
    if own:
        os.sched_setaffinity(0, own)


@contextmanager
def every_core() -> Iterator[None]:
    """A block that may use the cores of the other workers too."""
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, CORES)
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)
