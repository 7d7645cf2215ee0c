"""How the samples lie on samples/dense.png and samples/compressed.png; torch is not needed.

The first images of both models stand on two sheets at the same places, row by row.
"""

from __future__ import annotations

COLUMNS, ROWS = 8, 2
MARGIN = 4
"""Pixels between two images."""
Box = tuple[int, int, int, int]
"""Left, top, right, bottom, in pixels."""


def image_count(images: int) -> int:
    """Return how many of so many images stand on a sheet."""
    return min(images, COLUMNS * ROWS)


def sheet_size(cell: tuple[int, int], images: int) -> tuple[int, int]:
    """Return (width, height) of a sheet.

    Args:
        cell: (width, height) of one image.
        images: The number of images on the sheet.
    """
    columns, rows = _grid(images)
    return columns * (cell[0] + MARGIN) - MARGIN, rows * (cell[1] + MARGIN) - MARGIN


def place(cell: tuple[int, int], index: int) -> tuple[int, int]:
    """Return (left, top) of one image on the sheet."""
    return index % COLUMNS * (cell[0] + MARGIN), index // COLUMNS * (cell[1] + MARGIN)


def boxes(size: tuple[int, int], images: int) -> list[Box]:
    """Return where each image lies on a sheet of ``size``; none where the size does not fit them.

    Args:
        size: (width, height) of the sheet.
        images: The number of images on it.
    """
    if images < 1:
        return []
    columns, rows = _grid(images)
    width, height = size[0] + MARGIN, size[1] + MARGIN
    if width % columns or height % rows:
        return []
    cell = (width // columns - MARGIN, height // rows - MARGIN)
    if min(cell) < 1:
        return []
    corners = (place(cell, index) for index in range(images))
    return [(left, top, left + cell[0], top + cell[1]) for left, top in corners]


def _grid(images: int) -> tuple[int, int]:
    """Columns and rows."""
    return min(images, COLUMNS), -(-images // COLUMNS)
