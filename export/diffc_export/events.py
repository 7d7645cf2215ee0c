"""What long work tells its caller while it runs.

Loops that take long are generators: they yield ``Progress`` and return their result. The command
line turns the events into bars, tests turn them into assertions, a library's caller may ignore
them with ``drain``.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")
E = TypeVar("E")
F = TypeVar("F")


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


def map_events(work: Generator[E, None, T], change: Callable[[E], F]) -> Generator[F, None, T]:
    """Do ``work`` with each of its events changed by ``change``; returns its result."""
    while True:
        try:
            event = next(work)
        except StopIteration as end:
            result: T = end.value
            return result
        yield change(event)


def follow(work: Generator[E, None, T], on_event: Callable[[E], None] | None = None) -> T:
    """Run ``work`` to its end, telling ``on_event`` each of its events; returns its result."""
    try:
        while True:
            try:
                event = next(work)
            except StopIteration as end:
                result: T = end.value
                return result
            if on_event is not None:
                on_event(event)
    finally:
        work.close()  # an error of on_event's must not leave it half-way, its locks taken


def drain(work: Generator[E, None, T]) -> T:
    """Run ``work`` to its end, ignoring its events, and return its result."""
    return follow(work)
