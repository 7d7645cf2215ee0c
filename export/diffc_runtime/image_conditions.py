"""The conditions that some denoisers take of an image, as further channels of their sample."""

from __future__ import annotations

from typing import Any

MASK, MASKED_IMAGE = "mask", "masked_image_latents"
"""Of denoisers that fill in a masked image: (1, H, W), 1 where it is made anew, and (C, H, W)."""
EDITED_IMAGE = "image_latents"
"""Of denoisers that edit a whole image: (C, H, W), the mean of its posterior, not scaled."""
IMAGE_CONDITIONS = (MASK, MASKED_IMAGE, EDITED_IMAGE)
"""In the order of the channels."""


def shrink_masks(masks: Any, size: tuple[int, int]) -> Any:
    """Return masks (N, 1, H, W) at the size (h, w) of samples, by the nearest pixel.

    Arrays of numpy and torch's tensors alike.
    """
    (height, width), (rows, columns) = masks.shape[-2:], size
    masks = masks[:, :, [i * height // rows for i in range(rows)]]
    return masks[:, :, :, [i * width // columns for i in range(columns)]]
