"""The garbage collector runs rarely while a process of diffc's own imports modules.

What is imported stays, so that each collection only walks through more and more modules for
nothing. Once torch has been imported, or a stage begins to work, the collector runs as often as it
did. A command that does neither makes little garbage.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

_RARELY = 100_000  # objects more than there were; a short command makes as many
_usual: list[tuple[int, int, int]] = []


def collect_rarely() -> None:
    """Let the collector wait for many objects, until ``collect_as_usual``."""
    if not _usual:
        _usual.append(gc.get_threshold())
        gc.set_threshold(_RARELY, *_usual[0][1:])


def collect_as_usual() -> None:
    """Undo ``collect_rarely``; a process where that was never called is left as it is."""
    if _usual:
        gc.set_threshold(*_usual.pop())


@contextmanager
def rarely_until(module: ModuleType) -> Iterator[None]:
    """End it once ``module`` has been imported, whose own import is long too."""
    yield
    collect_as_usual()
