"""SSIM without torch, for machines that only have engines: as torchmetrics computes it.

Gaussian windows of 11x11, sigma 1.5, around every pixel, edges reflected; k1 0.01, k2 0.03, on
intensities in [0, 1] (Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment", IEEE TIP 2004,
eq. 13).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2


def is_image(shape: tuple[int, ...]) -> bool:
    """Whether (C, H, W) is grey or colour, and large enough: latents have no SSIM."""
    return len(shape) == 3 and shape[0] in (1, 3) and min(shape[1:]) >= WINDOW


def ssim(a: Any, b: Any) -> float:
    """Of two images (C, H, W) in [-1, 1], clipped to it."""
    a, b = ((np.clip(np.asarray(x, np.float64), -1, 1) + 1) / 2 for x in (a, b))
    mean_a, mean_b = _blur(a), _blur(b)
    var_a, var_b = _blur(a * a) - mean_a**2, _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    top = (2 * mean_a * mean_b + _C1) * (2 * covariance + _C2)
    return float((top / ((mean_a**2 + mean_b**2 + _C1) * (var_a + var_b + _C2))).mean())


def _blur(x: Any) -> Any:
    """The Gaussian mean around every pixel, (C, H, W)."""
    half = WINDOW // 2
    x = np.pad(x, ((0, 0), (half, half), (half, half)), mode="reflect")
    offsets = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * _SIGMA**2))
    weights /= weights.sum()
    for axis in (-2, -1):
        x = sliding_window_view(x, WINDOW, axis=axis) @ weights
    return x
