"""The ladder of an image: from torch with the reference loop to the loop that is served.

Each rung is one change. All are points of one frontier, so that their times are of one run.

    torch, eager        the reference loop
    engine              the same loop by the dense engine in fp32
    precision           in the run's precision
    pruning             by the compressed engine
    loop                with the served loop's sampler and steps
    distilled for it    by the student that learned this loop; weights change no time
    guidance            and with its guidance: a model that carries it makes one call a step

A student that learned its loop gives nothing sensible by the reference loop. The rungs before it
have the figures of the same model before that training, and the compressed engine's times.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from diffc.measure.frontier.loops import short
from diffc.measure.frontier.results import Frontier, Point, PointFigure, Side, ratio
from diffc.measure.results import Speedup
from diffc_runtime.loop import Loop

_ENGINES: tuple[Side, Side] = ("dense-fp32", "dense")


@dataclass(frozen=True)
class ImageRung:
    """One rung.

    Attributes:
        label: What runs, and by which loop.
        cause: The change from the rung before; empty for the first.
        point: Its times.
        figures: Metric -> figure of its images.
        by: Its factor over the rung before; None for the first.
        in_all: Its factor over the first rung; None for the first.
    """

    label: str
    cause: str
    point: Point
    figures: Mapping[str, PointFigure]
    by: Speedup | None = None
    in_all: Speedup | None = None


def image_ladder(frontier: Frontier) -> list[ImageRung]:
    """The rungs that were timed; empty where fewer than two were.

    The change of a rung that was not timed counts among the causes of the next one.
    """
    rungs: list[ImageRung] = []
    causes: list[str] = []
    for step in _steps(frontier):
        if rungs and _is_same(rungs[-1], step):
            continue
        causes.append(step.cause)
        if step.point is None:
            continue
        if not rungs:
            rungs.append(ImageRung(step.label, "", step.point, step.figures))
        else:
            both = (ratio(one.point, step.point) for one in (rungs[-1], rungs[0]))
            cause = " and ".join(causes)
            rungs.append(ImageRung(step.label, cause, step.point, step.figures, *both))
        causes.clear()
    return rungs if len(rungs) > 1 else []


@dataclass(frozen=True)
class _Step:
    """A rung that may be: its label, the change, its point (None: not timed) and its figures."""

    label: str
    cause: str
    point: Point | None
    figures: Mapping[str, PointFigure]


def _is_same(rung: ImageRung, step: _Step) -> bool:
    """True where the step changes nothing, as where a student's loop is the reference loop."""
    if rung.label == step.label:
        return True
    return rung.point is step.point and rung.figures is step.figures


def _steps(frontier: Frontier) -> Iterator[_Step]:
    """Every rung that may be, in order."""
    reference, precision = frontier.reference, frontier.precision
    plain, dense = (frontier.point(side, reference) for side in _ENGINES)
    if plain is None and precision == "fp32":
        plain = dense
    yield _step(f"torch eager, {reference}", "", frontier.point("eager", reference))
    yield _step(f"dense engine, fp32, {reference}", "engine", plain)
    yield _step(f"dense engine, {precision}, {reference}", "precision", dense)
    before = frontier.untimed("all-steps", "reference")
    cut = frontier.point("compressed", reference)
    if cut is None and before is not None:
        cut = _as_long(frontier, reference)
    yield _step(f"compressed engine, {reference}", "pruning", cut, before)
    own = frontier.with_role("compressed", "own")
    if own is not None:
        yield from _own_steps(frontier, own)


def _own_steps(frontier: Frontier, own: Point) -> Iterator[_Step]:
    """The rungs of the served loop."""
    label, causes = f"compressed engine, {own.loop}", []
    guided = _guided(own.loop, frontier.reference)
    before = frontier.untimed("all-steps", "own")
    if guided != own.loop:
        point = frontier.point("compressed", guided)
        yield _step(f"compressed engine, {guided}", "loop", point, before)
        causes.append("guidance carried")
    elif before is not None:
        yield _step(label, "loop", own, before)
    if before is not None:
        label += ", distilled for it"
        causes.insert(0, "distilled for it")
    yield _step(label, ", ".join(causes) or "loop", own)


def _as_long(frontier: Frontier, loop: str) -> Point | None:
    """The compressed engine's point of a loop with any spacing: a student's is its own."""
    wanted = replace(Loop.parse(loop), spacing=None)
    every = frontier.of("compressed")
    return next((p for p in every if replace(Loop.parse(p.loop), spacing=None) == wanted), None)


def _step(label: str, cause: str, point: Point | None, judged: Point | None = None) -> _Step:
    """A rung with the figures of ``judged``, or its own point's."""
    shown = judged or point
    return _Step(label, cause, point, {} if shown is None else shown.figures)


def _guided(own: str, reference: str) -> str:
    """The served loop with the reference loop's guidance."""
    return short(replace(Loop.parse(own), guidance=Loop.parse(reference).guidance))
