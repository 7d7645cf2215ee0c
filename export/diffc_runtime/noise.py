"""The noise of an image, named by (seed, index) alone.

Image 7 of seed 0 starts from the same noise alone and among sixteen, on every machine, in a server,
and where diffc compares the compressed model with the dense one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .values import Array

Streams = list[np.random.Generator]


def image_noise(seed: int, first: int, n: int, shape: Sequence[int]) -> Array:
    """Return standard normal float32 (n, *shape), from which the images of a seed start.

    Args:
        seed: 0 or more.
        first: The index of the first image.
        n: The number of images.
        shape: Of one sample.
    """
    noise = np.empty((n, *shape), np.float32)
    fill(image_streams(seed, first, n), noise)
    return noise


def image_streams(seed: int, first: int, n: int, kind: int = 0) -> Streams:
    """Return one generator per image. Philox gives 2^128 numbers before two streams overlap.

    Args:
        seed: 0 or more.
        first: The index of the first image.
        n: The number of images.
        kind: 0 for an image's noise; others for what else is random about it.
    """
    return [
        np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, kind, first + i]))
        for i in range(n)
    ]


def fill(streams: Streams, out: Array) -> None:
    """Fill ``out`` with standard normal noise, each row from its own stream."""
    for stream, row in zip(streams, out, strict=True):
        stream.standard_normal(dtype=np.float32, out=row)
