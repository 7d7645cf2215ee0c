"""Latents as tokens of 2x2 positions each, as Flux packs them, and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .errors import UnfitEngine
from .values import Array


def pack_latents(latents: Array) -> Array:
    """Return latents (N, C, H, W) as tokens (N, H/2 * W/2, 4 C)."""
    n, channels, height, width = latents.shape
    tiles = latents.reshape(n, channels, height // 2, 2, width // 2, 2).transpose(0, 2, 4, 1, 3, 5)
    return np.ascontiguousarray(tiles.reshape(n, height // 2 * (width // 2), 4 * channels))


def unpack_latents(tokens: Array, shape: Sequence[int]) -> Array:
    """Tokens (N, H/2 * W/2, 4 C) of 2x2 positions each, as Flux packs them, -> (N, C, H, W).

    Raises:
        UnfitEngine: The tokens are not of latents of ``shape``.
    """
    channels, height, width = shape
    if tokens.shape[1:] != (height // 2 * (width // 2), 4 * channels):
        raise UnfitEngine(
            f"the decoder takes latents of {tuple(shape)}, and the denoiser gives "
            f"{tokens.shape[1:]}, which do not unpack to them"
        )
    tiles = tokens.reshape(-1, height // 2, width // 2, channels, 2, 2)
    latents: Array = tiles.transpose(0, 3, 1, 4, 2, 5).reshape(-1, channels, height, width)
    return latents
