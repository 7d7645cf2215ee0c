"""SSIM (Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment", IEEE TIP 2004, eq. 13).

Gaussian windows of 11x11, sigma 1.5, around every pixel, edges reflected; k1 0.01, k2 0.03, on
intensities in [0, 1]: its luminance term compares means as light, and means of either sign make an
image resemble its own negative.

    Ssim    the metric: over pairs of images, by torchmetrics
    ssim    of one pair, without torch, for machines that only have engines; the same values
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from diffc.errors import InputError
from diffc.measure.quality.base import PairMetric
from diffc_runtime.json_types import JsonObject

if TYPE_CHECKING:
    from torch import Tensor

WINDOW = 11
"""The height and width of the smallest image that has an SSIM."""
INTENSITIES = (0.0, 1.0)
"""The range that SSIM is taken on. Figures state it, since older ones were taken on [-1, 1]."""
_SIGMA = 1.5
_C1, _C2 = 0.01**2, 0.03**2


class Ssim(PairMetric):
    """The structural similarity of each pair; 1 for identical images."""

    name = "ssim"
    label = "SSIM"
    better = "higher"
    order = 10
    always = True
    least_side = WINDOW
    packages = ("torchmetrics",)
    limits = (0.0, 1.0)
    most_worse = 0.02
    in_every_check = True
    depends_on: ClassVar[tuple[str, ...]] = (*PairMetric.depends_on, "intensities")
    in_headline = True
    possible = (-1.0, 1.0)
    facts: ClassVar[JsonObject] = {"intensities": list(INTENSITIES)}

    def values(self, dense: Tensor, compressed: Tensor) -> list[float]:
        """One value for each pair.

        Raises:
            InputError: The images are smaller than the window.
        """
        from torchmetrics.functional.image import structural_similarity_index_measure

        if min(dense.shape[-2:]) < WINDOW:
            raise InputError(
                f"SSIM needs images of at least {WINDOW}x{WINDOW}; "
                f"these are {tuple(dense.shape[-2:])}"
            )
        values = structural_similarity_index_measure(
            (compressed + 1) / 2, (dense + 1) / 2, data_range=1.0, reduction="none"
        )
        return [float(value) for value in values.reshape(-1)]


def is_image(shape: tuple[int, ...]) -> bool:
    """True for a grey or colour image (C, H, W) that is large enough; latents have no SSIM."""
    return len(shape) == 3 and shape[0] in (1, 3) and min(shape[1:]) >= WINDOW


def ssim(a: ArrayLike, b: ArrayLike) -> float:
    """The SSIM of two images (C, H, W), which are clipped to [-1, 1] first."""
    x, y = _intensities(a), _intensities(b)
    mean_x, mean_y = _blur(x), _blur(y)
    var_x, var_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    top = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    return float((top / ((mean_x**2 + mean_y**2 + _C1) * (var_x + var_y + _C2))).mean())


def _intensities(image: ArrayLike) -> NDArray[np.float64]:
    """An image in [-1, 1] on [0, 1]."""
    clipped: NDArray[np.float64] = (np.clip(np.asarray(image, np.float64), -1, 1) + 1) / 2
    return clipped


def _blur(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The Gaussian mean around every pixel, (C, H, W)."""
    half = WINDOW // 2
    x = np.pad(x, ((0, 0), (half, half), (half, half)), mode="reflect")
    offsets = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * _SIGMA**2))
    weights /= weights.sum()
    for axis in (-2, -1):
        x = sliding_window_view(x, WINDOW, axis=axis) @ weights
    return x


METRIC = Ssim()
