"""The images of a loop against the reference loop's from the same noise, metric by metric."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.util import find_spec

from diffc.measure.frontier.results import PointFigure, figure_of
from diffc.measure.quality import reported_metric
from diffc.measure.quality.base import PairMetric
from diffc.measure.quality.ssim import METRIC as SSIM
from diffc.measure.quality.ssim import ssim
from diffc_export.targets.base import Array


def why_unjudged(reference: Array, images: Array) -> str | None:
    """Why images (N, C, H, W) cannot be compared with the reference loop's; None where they can."""
    if images.shape != reference.shape:
        given, wanted = (list(one.shape[1:]) for one in (images, reference))
        return f"its samples have the shape {given}, and the reference loop's images {wanted}"
    return None


def judge(reference: Array, images: Array, metrics: Sequence[str]) -> dict[str, PointFigure]:
    """The figures of images, by metric.

    Where PyTorch is not installed, as on a machine that has engines alone, SSIM is taken in numpy.

    Args:
        reference: The reference loop's images (N, C, H, W) in [-1, 1].
        images: From the same noise, row by row.
        metrics: The metrics that the run measures. Those of pairs count, where such pictures can
            have them.
    """
    figures = {}
    for name in metrics:
        values = _values(reference, images, name)
        if values and all(map(math.isfinite, values)):
            figures[name] = figure_of(values)
    return figures


def _values(reference: Array, images: Array, name: str) -> list[float]:
    """One value for each pair; empty where the metric has none."""
    one = reported_metric(name)
    channels, height, width = images.shape[1:]
    if not isinstance(one, PairMetric) or one.why_impossible((channels, height, width)):
        return []
    if find_spec("torch") is not None:
        import torch

        pair = (torch.from_numpy(side.astype("float32")) for side in (reference, images))
        return one.of_pairs(*pair)
    if name != SSIM.name:
        return []
    return [ssim(a, b) for a, b in zip(reference, images, strict=True)]


def other_noise(reference: Array) -> list[float]:
    """SSIM of each image to the next one, which came from other noise; empty without any."""
    if len(reference) < 2:
        return []
    import numpy as np

    return _values(reference, np.roll(reference, -1, 0), SSIM.name)
