"""What long work tells its caller while it runs.

Loops that take long are generators: they yield ``Progress`` and return their result. The command
line turns the events into bars, tests turn them into assertions, a library's caller may ignore
them with ``drain``.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """One step of a long piece of work.

    done / total: units of work (images, steps, pairs); ``total`` is None when it is not known.
    values: figures worth showing beside the bar, such as ``{"loss": 0.031}``.
    """

    done: float
    total: float | None = None
    note: str = ""
    values: Mapping[str, float] = field(default_factory=dict)


Work = Generator[Progress, None, T]
"""A generator of ``Progress`` that returns a ``T``."""


def drain(work: Work[T]) -> T:
    """Run ``work`` to its end, ignoring its events, and return its result."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result
