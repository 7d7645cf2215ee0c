"""Turns samples in [-1, 1] into pixels, grids and PNG files, with numpy and zlib alone."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import BadRequest
from .files import write_bytes

_COLOURS = {1: 0, 3: 2}
"""Channels -> PNG colour type (grey, RGB). Four channels are latents, not pixels."""


def is_picture(shape: Sequence[int]) -> bool:
    """Return True if samples of this shape without the batch are grey or RGB pictures (C, H, W)."""
    return len(shape) == 3 and shape[0] in _COLOURS


def to_uint8(samples: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Turn (N, C, H, W) in [-1, 1] into (N, H, W, C) in 0..255, rounded as diffusers rounds."""
    unit = np.clip(samples / 2 + 0.5, 0, 1)
    pixels: NDArray[np.uint8] = np.round(unit.transpose(0, 2, 3, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(pixels)


def grid(images: NDArray[np.uint8], columns: int | None = None) -> NDArray[np.uint8]:
    """Arrange (N, H, W, C) as one picture (rows H, columns W, C), black where images end.

    Args:
        columns: By default the square root of N, rounded up.
    """
    n, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    canvas = np.zeros((rows * columns, height, width, channels), np.uint8)
    canvas[:n] = images
    tiles = canvas.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    picture: NDArray[np.uint8] = tiles.reshape(rows * height, columns * width, channels)
    return picture


def write_png(path: Path, image: NDArray[np.uint8]) -> None:
    """Write (H, W, C) with 1 or 3 channels as a PNG file, whole or not at all.

    Raises:
        BadRequest: The image has another number of channels, or the file cannot be written.
    """
    height, width, channels = image.shape
    if channels not in _COLOURS:
        raise BadRequest(f"a picture has 1 or 3 channels, not {channels}; save these as .npy")
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOURS[channels], 0, 0, 0)
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # each row starts with filter 0
    rows[:, 1:] = image.reshape(height, -1)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 6)), (b"IEND", b"")]
    content = b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)
    write_file(path, content)


def write_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        BadRequest: The file cannot be written.
    """
    try:
        write_bytes(path, content)
    except OSError as error:
        raise BadRequest(f"cannot write {path}: {error.strerror}") from None


def _chunk(kind: bytes, data: bytes) -> bytes:
    check = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)
