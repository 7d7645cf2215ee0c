"""The times of the served loop, of the same block as all the other loops of a frontier.

One loop has one time in a report. The block in which all loops are timed in turn is what says who
is ahead, so that its times stand everywhere.
"""

from __future__ import annotations

from diffc.measure.frontier.results import Frontier, Point, ratio
from diffc.measure.results import EngineFigures, TargetResult

BRIEF = "brief"
"""In the details of whole images that were timed briefly, since the frontier times them again."""


def with_times_of(image: TargetResult, frontier: Frontier) -> TargetResult:
    """Give the result of whole images the times that the frontier has of the same two loops.

    Args:
        image: Whole images of one target, as the bench stage measured them.
        frontier: Of the same target.

    Returns:
        ``image`` itself where the frontier did not time both loops.
    """
    dense = frontier.with_role("dense", "reference")
    served = frontier.with_role("compressed", "own")
    if image.absent or dense is None or served is None or frontier.batch != image.batch:
        return image
    speedup = ratio(dense, served)
    if speedup is None:
        return image
    details = {name: value for name, value in image.details.items() if name != BRIEF}
    return image.model_copy(
        update={
            "dense": _with_times(image.dense, dense, image.batch),
            "compressed": _with_times(image.compressed, served, image.batch),
            "speedup": speedup,
            "noise": frontier.noise,
            "details": {**details, **frontier.details},
        }
    )


def _with_times(figures: EngineFigures, point: Point, batch: int) -> EngineFigures:
    latency = point.latency_ms
    assert latency is not None  # the point is a timed one
    images_per_s = 1e3 * batch / latency.p50
    return figures.model_copy(
        update={
            "latency_ms": latency,
            "images_per_s": images_per_s,
            "throughput_per_s": images_per_s,
            "spread": latency.p90 / latency.p50,
            "samples_ms": point.round_ms if len(point.round_ms) == latency.n else [],
        }
    )
