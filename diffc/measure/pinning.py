"""Pinned cores: while engines are measured on a processor, their threads stay on the same cores.

    choose_cores(threads)  the cores: one per physical core first, of those this process may use
    pin_cores(threads)     a block in which every thread of this process runs on them alone

A runtime makes its threads while it loads, and a new thread inherits its maker's cores; those that
are there already (torch's pool) are moved too. Where every core is wanted, or the system has no
affinity (macOS), nothing is changed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

_TASKS = Path("/proc/self/task")
_TOPOLOGY = "/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list"


def choose_cores(threads: int | None) -> tuple[int, ...]:
    """The cores that an engine of ``threads`` threads is pinned to.

    Args:
        threads: How many; None for one on every core.

    Returns:
        As many cores as threads, at most all that this process may use; none where the system has
        no affinity.
    """
    if not hasattr(os, "sched_getaffinity"):
        return ()
    allowed = sorted(os.sched_getaffinity(0))
    if threads is None or threads >= len(allowed):
        return tuple(allowed)
    return tuple(sorted(_spread(allowed)[:threads]))


def _spread(allowed: Sequence[int]) -> list[int]:
    """The cores, the first of each physical core before any second."""
    seen: set[str] = set()
    first: list[int] = []
    second: list[int] = []
    for core in allowed:
        siblings = _siblings(core)
        (second if siblings in seen else first).append(core)
        seen.add(siblings)
    return first + second


def _siblings(core: int) -> str:
    """The hardware threads of this core's physical core, as the kernel writes them."""
    try:
        return Path(_TOPOLOGY.format(core=core)).read_text().strip()
    except OSError:
        return str(core)


@contextmanager
def pin_cores(threads: int | None) -> Iterator[tuple[int, ...]]:
    """Run the block on the cores of ``choose_cores``, then give every thread its own back."""
    cores = choose_cores(threads)
    if not cores or set(cores) == os.sched_getaffinity(0):
        yield cores
        return
    before = {task: os.sched_getaffinity(task) for task in _tasks()}
    whole = os.sched_getaffinity(0)
    _move({task: set(cores) for task in before})
    try:
        yield cores
    finally:
        # threads that began inside the block get what the process had
        _move({task: before.get(task, whole) for task in _tasks()})


def _tasks() -> list[int]:
    """The threads of this process; the calling one alone where they cannot be listed."""
    try:
        return [int(path.name) for path in _TASKS.iterdir()]
    except OSError:
        return [0]


def _move(cores: dict[int, set[int]]) -> None:
    for task, allowed in cores.items():
        with suppress(OSError):  # a thread that has just ended
            os.sched_setaffinity(task, allowed)
