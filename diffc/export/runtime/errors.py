"""What can go wrong in the runtime. Each message is one line that says what to do."""

from __future__ import annotations


class BadRequest(ValueError):
    """What was asked for cannot be done: steps, seed, scheduler, number of images, conditions."""


class UnfitEngine(RuntimeError):
    """The engine cannot run here: built for another machine, a missing runtime, a damaged file."""
