"""Frontiers of given times and figures, for tests of what is said of them."""

from __future__ import annotations

from diffc.measure.frontier.results import Frontier, Point, figure_of
from diffc.measure.results import Latency

JITTER = (1.0, 1.002, 0.999, 1.001, 1.0)


def point(side, loop, ms, values=None, roles=("grid",), metric="ssim") -> Point:
    """A point whose rounds took about ``ms``; ``values`` is the figure of each image."""
    latency = Latency(p50=ms, p90=ms, p95=ms, p99=ms, mean=ms, n=5)
    return Point(
        side=side,
        loop=loop,
        calls=1,
        roles=list(roles),
        latency_ms=latency,
        round_ms=[ms * part for part in JITTER],
        figures={} if values is None else {metric: figure_of(values)},
    )


def around(value, spread=0.01) -> list[float]:
    """Four values with this mean, the same way apart each time."""
    return [value + spread * part for part in (-1.5, -0.5, 0.5, 1.5)]


def noisy(value, spread=0.01) -> list[float]:
    """The same mean, apart in another way: no pairwise difference is clear."""
    return [value + spread * part for part in (1.5, -1.5, 0.5, -0.5)]


def frontier(*points, reference="ddim:50") -> Frontier:
    """A frontier of these points."""
    return Frontier(
        target="ort-cpu",
        precision="fp32",
        batch=1,
        reference=reference,
        seed=0,
        n=4,
        points=list(points),
        other_seed=figure_of([0.2, 0.3]),
        details={"rounds": 5},
    )


def half_cut(own="ddim:50") -> Frontier:
    """The demo at half its MACs, in round figures: behind where loops are long, ahead where short.

    Args:
        own: The loop that is served: ddim:50, ddim:10 or ddim:5.
    """
    dense = {"ddim:50": (500, 1.0), "ddim:30": (300, 0.98), "ddim:10": (100, 0.92),
             "ddim:5": (50, 0.82), "ddim:3": (30, 0.68), "ddim:1@trailing": (10, 0.1)}  # fmt: skip
    small = {"ddim:50": (300, 0.93), "ddim:10": (60, 0.87), "ddim:5": (30, 0.77),
             "ddim:1@trailing": (6, 0.09)}  # fmt: skip
    roles = {"ddim:50": ("reference",), "ddim:30": ("same-time",)}
    return frontier(
        point("eager", "ddim:50", 1000, roles=("reference",)),
        *(point("dense", loop, ms, around(v), roles.get(loop, ("grid",)))
          for loop, (ms, v) in dense.items()),
        *(point("compressed", loop, ms, around(v, 0.012), ("own",) if loop == own else ("grid",))
          for loop, (ms, v) in small.items()),
    )  # fmt: skip
