"""The points of a frontier: every loop's images by its engine, and all loops timed in turn."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from diffc.errors import UnavailableError
from diffc.measure.compare import open_decoder
from diffc.measure.engines import (
    cores_of,
    noise_of,
    open_engines,
    open_usable_engines,
    settle_times,
    threads_of,
)
from diffc.measure.frontier.judging import judge, why_unjudged
from diffc.measure.frontier.loops import WantedLoop, short
from diffc.measure.frontier.results import Point, PointFigure, Side
from diffc.measure.latency import LatencyOptions, Timings, interleaved
from diffc.measure.loop import Decode, LoopOptions, TimedLoop, decode_with
from diffc.measure.results import Latency, MachineNoise
from diffc_export.events import Progress, Work
from diffc_export.targets.base import Array, LoadedEngine
from diffc_export.targets.engine import EngineInfo, read_info
from diffc_runtime.errors import BadRequest, UnfitEngine
from diffc_runtime.json_types import JsonDict, JsonObject
from diffc_runtime.loop import Loop

_CANNOT = (UnavailableError, BadRequest, UnfitEngine)
_AT_ONCE = 8
"""Images that are sampled at once, of small pictures."""
_SMALL = 64 * 64 * 3


@dataclass(frozen=True)
class SideWork:
    """What is measured of one side.

    Attributes:
        side: Which.
        engine: Its engine folder; None where there is none.
        settings: pipeline.json's content, as a bundle of this engine has it.
        loops: The loops to time.
        judged: Whether their images are made and judged.
        timed: Whether they are timed.
        absent: Why there is no engine.
        variant: Which of the side's engines it is, in words; empty where the side has one.
    """

    side: Side
    engine: Path | None
    settings: JsonObject
    loops: tuple[WantedLoop, ...]
    judged: bool = True
    timed: bool = True
    absent: str | None = None
    variant: str = ""

    @property
    def name(self) -> str:
        """'compressed 0.35 fp16': which engine it is among those of a run."""
        return " ".join(filter(None, (self.side, self.variant)))


@dataclass(frozen=True)
class JudgedBy:
    """What images are judged by.

    Attributes:
        reference: The reference loop's images (N, C, H, W).
        seed: Of their noise.
        conditions: Name -> rows (N, ...) that they were made under.
        unconditional: The same for guidance; empty for none.
        metrics: The metrics of the run.
        more: Metric -> what measures one that is of no pairs; None for none.
        of_reference: How many images of the reference loop itself are made, which shows that the
            engine gives what torch gives, and of the same loop before a training; None: as many as
            of the others.
    """

    reference: Array
    seed: int
    conditions: Mapping[str, Array]
    unconditional: Mapping[str, Array]
    metrics: tuple[str, ...]
    more: Mapping[str, Callable[[Array], PointFigure]] | None = None
    of_reference: int | None = None

    def of(self, wanted: WantedLoop) -> JudgedBy:
        """The same by as many images as this loop takes."""
        few = self.of_reference if "reference" in wanted.roles else None
        return replace(self, reference=self.reference[:few])


@dataclass(frozen=True)
class MeasuredPoints:
    """The points, and how they were timed.

    Attributes:
        points: In the order of the sides and of their loops.
        noise: The machine's; None where nothing was timed.
        notes: What was left out of every loop.
        details: Threads, cores and rounds.
    """

    points: list[Point]
    noise: MachineNoise | None
    notes: list[str]
    details: JsonDict


def measure_points(
    sides: Sequence[SideWork],
    image: LoopOptions,
    judged: JudgedBy,
    timing: LatencyOptions | None,
    threads: int | None,
) -> Work[MeasuredPoints]:
    """Sample and judge every loop, then time all of them in turn.

    Args:
        sides: The loops of each side.
        image: What one timed image takes; its steps, sampler and guidance are each loop's.
        judged: What images are judged by.
        timing: How long to measure; None: nothing is timed.
        threads: CPU threads of the engines; None: as each was built.
    """
    folders: dict[str, Path] = {side.name: side.engine for side in sides if side.engine is not None}
    with open_usable_engines(folders, threads) as (runners, reasons), ExitStack() as stack:
        decoder, notes = open_decoder(image, threads, stack)
        run = _Run(image, judged, None if decoder is None else decode_with(decoder))
        for side in sides:
            yield from run.add(side, runners.get(side.name), reasons.get(side.name))
        timings = None
        if run.loops and timing is not None:
            settle = settle_times(run.engines)
            timings = yield from interleaved(run.loops, timing, settle, run.first)
    points = [_with_times(point, timings) for point in run.points]
    infos = [read_info(folder) for folder in folders.values()]
    noise, details = _how_timed(timings, infos, threads)
    return MeasuredPoints(points, noise, notes, details)


def reference_images(
    side: SideWork, image: LoopOptions, judged: JudgedBy, n: int, threads: int | None
) -> Work[Array]:
    """The images (n, C, H, W) of an engine's first loop, which others are judged against.

    Args:
        side: The engine and its loop.
        image: As ``measure_points`` takes it.
        judged: The noise and the conditions; its reference is not read.
        n: How many images.
        threads: As ``measure_points`` takes it.

    Raises:
        UnavailableError: The engine or the loop cannot run here.
    """
    assert side.engine is not None
    with open_engines({side.name: side.engine}, threads) as runners, ExitStack() as stack:
        decoder, _ = open_decoder(image, threads, stack)
        decode = None if decoder is None else decode_with(decoder)
        loop = TimedLoop(runners[side.name], _options(image, side, side.loops[0]), decode)
        blank = replace(judged, reference=np.empty((n, 0)))
        return (yield from _images(loop, side.loops[0].loop, blank, side.name))


def _how_timed(
    timings: Timings | None, infos: Sequence[EngineInfo], threads: int | None
) -> tuple[MachineNoise | None, JsonDict]:
    """The noise of the machine, and threads, cores and rounds; nothing where nothing was timed."""
    if timings is None:
        return None, {}
    names = list(timings.samples)
    dense = next((name for name in names if name.startswith("dense ")), names[0])
    return noise_of(timings, dense, infos), {
        "rounds": len(timings.samples[dense]),
        "threads": threads_of(infos[-1], threads),
        "pinned_to_cores": list(cores_of(infos, threads)),
    }


class _Run:
    """The loops of a run so far.

    Attributes:
        points: Every loop, without its times.
        loops: Those that run, by the point's name.
        engines: The engine of each.
        first: The seconds of each one's first images.
    """

    def __init__(self, image: LoopOptions, judged: JudgedBy, decode: Decode | None) -> None:
        self._image, self._judged, self._decode = image, judged, decode
        self.points: list[Point] = []
        self.loops: dict[str, TimedLoop] = {}
        self.engines: dict[str, LoadedEngine] = {}
        self.first: dict[str, float] = {}

    def add(self, side: SideWork, runner: LoadedEngine | None, reason: str | None) -> Work[None]:
        """Try every loop of a side, and judge its images where they are wanted."""
        for wanted in side.loops:
            point = _blank(side, wanted, side.absent or reason)
            if runner is not None and point.absent is None:
                point = yield from self._point(point, runner, side, wanted)
            self.points.append(point)

    def _point(
        self, point: Point, runner: LoadedEngine, side: SideWork, wanted: WantedLoop
    ) -> Work[Point]:
        """The point with its figures, its loop kept to be timed; absent where it cannot run."""
        yield Progress(0, None, point.name)
        try:
            loop = TimedLoop(runner, _options(self._image, side, wanted), self._decode)
            if side.timed:
                self.first[point.name] = loop()
                self.loops[point.name], self.engines[point.name] = loop, runner
        except _CANNOT as error:
            return point.model_copy(update={"absent": str(error)})
        if side.judged:
            point = yield from self._with_figures(point, loop, wanted)
        return point

    def _with_figures(self, point: Point, loop: TimedLoop, wanted: WantedLoop) -> Work[Point]:
        """The point with the figures of its images, or why it has none."""
        judged = self._judged.of(wanted)
        try:
            images = yield from _images(loop, wanted.loop, judged, point.name)
        except _CANNOT as error:
            return point.model_copy(update={"unjudged": str(error)})
        reason = why_unjudged(judged.reference, images)
        if reason is not None:
            return point.model_copy(update={"unjudged": reason})
        figures = judge(judged.reference, images, judged.metrics)
        figures |= {name: measure(images) for name, measure in (judged.more or {}).items()}
        return point.model_copy(update={"figures": figures})


def _blank(side: SideWork, wanted: WantedLoop, absent: str | None) -> Point:
    return Point(
        side=side.side,
        variant=side.variant,
        loop=short(wanted.loop),
        calls=_rows(wanted.loop, side.settings["scheduler"]),
        roles=list(wanted.roles),
        absent=absent,
    )


def _rows(loop: Loop, config: JsonObject) -> int:
    """The rows of one image; of a loop that cannot run, as its point says, one for each step."""
    try:
        return loop.rows(config)
    except BadRequest:
        return loop.steps or 1


def _options(image: LoopOptions, side: SideWork, wanted: WantedLoop) -> LoopOptions:
    """One timed image by one loop of one side."""
    loop = wanted.loop
    config = loop.config(side.settings["scheduler"])
    return replace(
        image,
        steps=loop.steps or 1,
        scheduler=loop.sampler,
        guidance=loop.guidance or 1.0,
        settings={**side.settings, "scheduler": config},
    )


def _images(timed: TimedLoop, loop: Loop, judged: JudgedBy, name: str) -> Work[Array]:
    """The loop's images of the reference's noise; as many at once as memory has room for."""
    n, size = len(judged.reference), math.prod(timed.pipeline.sample_shape)
    at_once = max(1, min(_AT_ONCE, _AT_ONCE * _SMALL // size))
    parts: list[Array] = []
    done = 0
    while done < n:
        stop = min(done + at_once, n)
        try:
            parts.append(_part(timed, loop, judged, range(done, stop)))
        except UnavailableError:  # memory: fewer at once make the same images
            if at_once == 1:
                raise
            at_once //= 2
            continue
        done = stop
        yield Progress(done, n, f"sampling {name}")
    return np.concatenate(parts)


def _part(timed: TimedLoop, loop: Loop, judged: JudgedBy, index: range) -> Array:
    def rows(values: Mapping[str, Array]) -> dict[str, Array]:
        return {name: value[index.start : index.stop] for name, value in values.items()}

    guidance = loop.guidance or 1.0
    images: Array = timed.pipeline.generate(
        len(index),
        loop.steps or 1,
        judged.seed,
        loop.sampler,
        guidance=guidance,
        conditions=rows(judged.conditions),
        unconditional=rows(judged.unconditional) if guidance != 1 else None,
        first=index.start,
    )
    return images


def _with_times(point: Point, timings: Timings | None) -> Point:
    if timings is None or point.name not in timings.samples:
        return point
    rounds = [round(1e3 * float(t), 6) for t in timings.round_medians(point.name)]
    latency = Latency.model_validate(timings.percentiles_ms(point.name))
    return point.model_copy(update={"latency_ms": latency, "round_ms": rounds})
