"""PSNR between pairs of images from the same noise, in dB, by torchmetrics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from diffc.measure.quality.base import MetricFigure, PairMetric

if TYPE_CHECKING:
    from torch import Tensor


class Psnr(PairMetric):
    """10 log10(4 / mean squared error) of each pair; the data range is 2."""

    name = "psnr"
    label = "PSNR"
    better = "higher"
    unit = "dB"
    digits = 2
    order = 20
    always = True
    packages = ("torchmetrics",)
    limits = (0.0, math.inf)

    def values(self, dense: Tensor, compressed: Tensor) -> list[float]:
        """In dB. Identical images give infinity."""
        from torchmetrics.functional.image import peak_signal_noise_ratio

        values = peak_signal_noise_ratio(
            compressed, dense, data_range=2.0, reduction="none", dim=(1, 2, 3)
        )
        return [float(value) for value in values.reshape(-1)]

    def figure(self, values: Sequence[float]) -> MetricFigure | str:
        """The mean over pairs that differ. ``identical`` counts the others, where there are any."""
        finite = [value for value in values if math.isfinite(value)]
        if not finite:
            return "PSNR is infinite: every pair of images is identical"
        figure = super().figure(finite)
        if isinstance(figure, str) or len(finite) == len(values):
            return figure
        each = [round(value, 6) if math.isfinite(value) else None for value in values]
        return {**figure, "identical": len(values) - len(finite), "each": each}


METRIC = Psnr()
