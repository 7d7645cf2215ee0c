"""Latents in the scale of the denoiser's, and of the VAE's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .values import Array


def in_denoisers_scale(
    latents: Array, factor: float | Sequence[float], shift: float | Sequence[float]
) -> Array:
    """Return latents (N, C, h, w) of the VAE in the scale of the denoiser's."""
    return (latents - _per_channel(shift)) * _per_channel(factor)


def in_decoders_scale(
    latents: Array, factor: float | Sequence[float], shift: float | Sequence[float]
) -> Array:
    """Return latents (N, C, h, w) of the denoiser in the scale of the VAE's."""
    return latents / _per_channel(factor) + _per_channel(shift)


def _per_channel(factor: float | Sequence[float]) -> Array:
    """Return a number as (), numbers as (C, 1, 1), in float32."""
    array = np.asarray(factor, np.float32)
    return array.reshape(-1, 1, 1) if array.ndim else array
