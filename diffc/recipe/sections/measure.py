"""``measure``: how long to measure, and what besides latency."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from diffc.recipe.sections.base import RecipeSection
from diffc.recipe.words import NoneWord, OnOff


class MeasureSection(RecipeSection):
    """``measure``: how long to measure, with the engines' calls interleaved.

    Attributes:
        runs: the fewest calls of each engine.
        seconds: the shortest time of these calls, of all engines together.
        loop_runs: the fewest images of each engine that are timed, for ``seconds`` at least. A
            frontier times them in its own rounds instead, 4 of ``quick`` and 10 of ``full``.
        explain: where the speed-up comes from: ``on`` goes from torch eager to the compressed
            engine, ``full`` includes torch.compile (which takes a minute to compile), ``off`` does
            not explain it.
        frontier: how many loops of both sides are timed and judged beside the run's own: ``quick``
            a few, ``full`` many with more images, ``off`` none.
        server: an inference server through which the loop is measured too; None for no server.
    """

    runs: int = Field(default=50, ge=10)
    seconds: float = Field(default=3.0, ge=0)
    loop_runs: int = Field(default=10, ge=1)
    explain: Annotated[Literal["off", "on", "full"], OnOff] = "on"
    frontier: Annotated[Literal["off", "quick", "full"], OnOff] = "quick"
    server: Annotated[Literal["triton"] | None, NoneWord] = None
