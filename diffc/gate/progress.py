"""A check's progress: which of how many figures is being measured.

Every event of a check has a note such as ``3 of 10: sampling loop, ort-cpu fp32 batch 1``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from diffc_export.events import Progress, Work, map_events

T = TypeVar("T")


@dataclass
class Steps:
    """Counts the steps of a check.

    Attributes:
        total: How many there are.
        done: How many have begun.
    """

    total: int
    done: int = 0

    def follow(self, what: str, work: Work[T]) -> Work[T]:
        """Do ``work`` as the next step; its events say so."""
        self.done += 1
        note = f"{self.done} of {max(self.total, self.done)}: {what}"
        yield Progress(0, None, note)
        return (yield from map_events(work, lambda event: Progress(event.done, event.total, note)))
