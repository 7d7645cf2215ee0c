"""A frontier as report.json holds it: points of both sides, timed in turn in one run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from diffc.measure.frontier.loops import Role
from diffc.measure.results import Latency, MachineNoise, Speedup
from diffc.measure.statistics import paired_ratio
from diffc_runtime.json_types import JsonDict

Side: TypeAlias = Literal["eager", "dense-fp32", "dense", "all-steps", "compressed"]
"""What runs the loop: torch eager, the dense engine in fp32 or as the run wants it, the compressed
model before it learned its loops (by torch, for its images alone), or the compressed engine."""


class _FrontierPart(BaseModel):
    model_config = ConfigDict(extra="forbid", defer_build=True)


class PointFigure(_FrontierPart):
    """One metric of a point's images.

    Attributes:
        value: The mean over the images, or the distance.
        ci95: The interval of a mean; None for one image, and for a distance.
        se: The standard error of a distance.
        each: The value of each image, in the order of the noise; empty for a distance.
    """

    value: float
    ci95: tuple[float, float] | None = None
    se: float | None = None
    each: list[float] = Field(default_factory=list)


class Point(_FrontierPart):
    """One loop of one side.

    Attributes:
        side: What runs it.
        loop: As ``--loop`` takes it; its guidance is named where there is some.
        calls: Rows that the denoiser computes for one image.
        roles: Why it was measured.
        latency_ms: Of the whole loop.
        round_ms: One time for each round; round i of all points is of the same moment.
        figures: Metric -> figure of its images, compared with the reference loop's.
        absent: Why it was not timed.
        unjudged: Why it has no figures.
        variant: Which of the side's engines runs it, in words; empty where the side has one.
    """

    side: Side
    loop: str
    calls: int
    roles: list[Role]
    latency_ms: Latency | None = None
    round_ms: list[float] = Field(default_factory=list)
    figures: dict[str, PointFigure] = Field(default_factory=dict)
    absent: str | None = None
    unjudged: str | None = None
    variant: str = ""

    @property
    def name(self) -> str:
        """'dense ddim:28': which it is among the points of its frontier."""
        return " ".join(filter(None, (self.side, self.variant, self.loop)))


class Frontier(_FrontierPart):
    """The loops of one target.

    Attributes:
        target: The target.
        precision: Of both engines.
        batch: Images made at once in the timed loops.
        reference: The dense model's loop, by torch, whose images all are compared with.
        seed: Of the noise.
        n: The number of images of each point; of the reference loop itself there may be fewer.
        points: Every loop that was measured, the dense side's first.
        other_seed: SSIM of the reference loop's images to those of other noise: how far apart two
            good images are; None for one image, or without SSIM.
        noise: The machine's while the loops were timed.
        notes: What is to be said of the loops.
        absent: Why there are no points.
        details: Threads, rounds, cores.
    """

    target: str
    precision: str
    batch: int
    reference: str
    seed: int
    n: int
    points: list[Point] = Field(default_factory=list)
    other_seed: PointFigure | None = None
    noise: MachineNoise | None = None
    notes: list[str] = Field(default_factory=list)
    absent: str | None = None
    details: JsonDict = Field(default_factory=dict)

    def of(self, side: Side) -> list[Point]:
        """The timed points of a side, the fastest first."""
        timed = [p for p in self.points if p.side == side and p.latency_ms is not None]
        return sorted(timed, key=_p50)

    def point(self, side: Side, loop: str) -> Point | None:
        """The timed point of a loop; None where it was not timed."""
        return next((p for p in self.of(side) if p.loop == loop), None)

    def untimed(self, side: Side, role: Role) -> Point | None:
        """The first point of a role that was judged and not timed."""
        of_side = (p for p in self.points if p.side == side and p.latency_ms is None)
        return next((p for p in of_side if role in p.roles), None)

    def of_fewer_images(self) -> list[tuple[Point, int]]:
        """The points that fewer than ``n`` images were judged of, and how many."""
        counts = (
            (point, max((len(figure.each) for figure in point.figures.values()), default=0))
            for point in self.points
        )
        return [(point, count) for point, count in counts if 0 < count < self.n]

    def with_role(self, side: Side, role: Role) -> Point | None:
        """The first timed point of a role, in the order of ``points``."""
        timed = {p.name for p in self.of(side)}
        named = (p for p in self.points if p.side == side and p.name in timed)
        return next((p for p in named if role in p.roles), None)


def _p50(point: Point) -> float:
    assert point.latency_ms is not None
    return point.latency_ms.p50


def ratio(slower: Point, faster: Point) -> Speedup | None:
    """How many times as fast one point is as another, by pairs of the same round.

    None where one was not timed, or they are of different runs.
    """
    pairs = min(len(slower.round_ms), len(faster.round_ms))
    if not pairs or len(slower.round_ms) != len(faster.round_ms):
        return None
    return _ratio_of_rounds(tuple(slower.round_ms), tuple(faster.round_ms))


@lru_cache(maxsize=4096)
def _ratio_of_rounds(slower: tuple[float, ...], faster: tuple[float, ...]) -> Speedup:
    """The ratio of the rounds' times; a report asks for the same pairs of loops again and again."""
    return Speedup.of(paired_ratio(np.asarray(slower), np.asarray(faster)))


def figure_of(values: Sequence[float]) -> PointFigure:
    """The figure of one value for each image."""
    from diffc.measure.statistics import estimate

    mean = estimate(values)
    return PointFigure(value=mean.mean, ci95=mean.ci95, each=[round(v, 6) for v in values])
