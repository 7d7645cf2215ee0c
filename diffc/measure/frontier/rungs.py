"""The ladder of an image: from torch with the reference loop to the loop that is served.

Each rung is one change. All are points of one frontier, so that their times are of one run.

    torch, eager        the reference loop
    engine              the same loop by the dense engine in fp32
    precision           in the run's precision
    pruning             by the compressed engine
    loop                with the served loop's sampler and steps
    guidance            and with its guidance: a model that carries it makes one call a step
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from diffc.measure.frontier.loops import short
from diffc.measure.frontier.results import Frontier, Point, Side, ratio
from diffc.measure.results import Speedup
from diffc_runtime.loop import Loop

_ENGINES: tuple[Side, Side] = ("dense-fp32", "dense")


@dataclass(frozen=True)
class ImageRung:
    """One rung.

    Attributes:
        label: What runs, and by which loop.
        cause: The change from the rung before; empty for the first.
        point: Its times and figures.
        by: Its factor over the rung before; None for the first.
        in_all: Its factor over the first rung; None for the first.
    """

    label: str
    cause: str
    point: Point
    by: Speedup | None = None
    in_all: Speedup | None = None


def image_ladder(frontier: Frontier) -> list[ImageRung]:
    """The rungs that were timed; empty where fewer than two were.

    The change of a rung that was not timed counts among the causes of the next one.
    """
    rungs: list[ImageRung] = []
    causes: list[str] = []
    for label, cause, point in _steps(frontier):
        if rungs and rungs[-1].point is point:
            continue
        causes.append(cause)
        if point is None:
            continue
        if not rungs:
            rungs.append(ImageRung(label, "", point))
        else:
            by, in_all = ratio(rungs[-1].point, point), ratio(rungs[0].point, point)
            rungs.append(ImageRung(label, " and ".join(causes), point, by, in_all))
        causes.clear()
    return rungs if len(rungs) > 1 else []


def _steps(frontier: Frontier) -> Iterator[tuple[str, str, Point | None]]:
    """Every rung: its label, the change, and the point; None where it was not timed."""
    reference, precision = frontier.reference, frontier.precision
    yield f"torch eager, {reference}", "", frontier.point("eager", reference)
    plain, dense = (frontier.point(side, reference) for side in _ENGINES)
    if plain is None and precision == "fp32":
        plain = dense
    yield f"dense engine, fp32, {reference}", "engine", plain
    yield f"dense engine, {precision}, {reference}", "precision", dense
    cut = frontier.point("compressed", reference)
    yield f"compressed engine, {reference}", "pruning", cut
    own = frontier.with_role("compressed", "own")
    if own is None:
        return
    guided = _guided(own.loop, reference)
    if guided != own.loop:
        yield f"compressed engine, {guided}", "loop", frontier.point("compressed", guided)
    cause = "loop" if guided == own.loop else "guidance carried"
    yield f"compressed engine, {own.loop}", cause, own


def _guided(own: str, reference: str) -> str:
    """The served loop with the reference loop's guidance."""
    return short(replace(Loop.parse(own), guidance=Loop.parse(reference).guidance))
