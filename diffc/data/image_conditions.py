"""What inpainting and editing models are conditioned on, from the calibration images themselves.

    image_conditions   masks, masked images and images to edit, of pictures
    open_conditions    the same where there are no pictures yet: everything is made anew

Masks are random rectangles, and a quarter of them cover everything, as in the training of Stable
Diffusion's inpainting model (its model card: "in 25 % mask everything").
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diffc.data.latents import encode_images, encode_posterior, load_vae, vae_folder
from diffc.data.randomness import keyed_generator
from diffc.models.source import Source
from diffc_export.events import Work
from diffc_export.specs import TensorSpec
from diffc_runtime.image_conditions import (
    EDITED_IMAGE,
    IMAGE_CONDITIONS,
    MASK,
    MASKED_IMAGE,
    shrink_masks,
)

_MASKS = 7  # a stream of keys beside those of noise and labels
_LEAST_SIDE, _MOST_SIDE = 0.3, 0.8
"""Of a rectangle, as shares of the picture's."""


def takes_image(specs: Sequence[TensorSpec]) -> bool:
    """Return True if a denoiser is conditioned on an image."""
    return any(spec.name in IMAGE_CONDITIONS for spec in specs)


def image_conditions(
    source: Source, specs: Sequence[TensorSpec], pictures: Tensor, seed: int
) -> Work[dict[str, Tensor]]:
    """Return a row of each condition for each picture.

    Args:
        source: The model.
        specs: The denoiser's inputs.
        pictures: (N, C, H, W) in [-1, 1].
        seed: Of the masks.

    Returns:
        Name -> (N, ...); {} for a denoiser that is conditioned on no image.
    """
    masks = torch.stack([_mask(seed, i, pictures.shape[-2:]) for i in range(len(pictures))])
    return (yield from _conditions(source, specs, pictures, masks))


def open_conditions(
    source: Source, specs: Sequence[TensorSpec], shape: tuple[int, int, int]
) -> Work[dict[str, Tensor]]:
    """Return one row of each condition of a picture of ``shape`` of which nothing is known.

    The mask covers everything, and what stays, or what is edited, is grey.
    """
    grey, whole = torch.zeros(1, *shape), torch.ones(1, 1, *shape[1:])
    return (yield from _conditions(source, specs, grey, whole))


def _conditions(
    source: Source, specs: Sequence[TensorSpec], pictures: Tensor, masks: Tensor
) -> Work[dict[str, Tensor]]:
    shapes = {spec.name: spec.shape for spec in specs}
    rows: dict[str, Tensor] = {}
    if MASK in shapes:
        height, width = shapes[MASK][-2:]
        rows[MASK] = shrink_masks(masks, (height, width))
        masked = pictures * (masks < 0.5)
        if vae_folder(source) is not None:
            masked = yield from encode_images(source, masked, shapes[MASKED_IMAGE])
        rows[MASKED_IMAGE] = masked
    if EDITED_IMAGE in shapes:
        edited = pictures
        if vae_folder(source) is not None:
            edited, _ = encode_posterior(pictures, load_vae(source))
        rows[EDITED_IMAGE] = edited
    return rows


def _mask(seed: int, i: int, size: Sequence[int]) -> Tensor:
    """Return the mask (1, H, W) of picture ``i``: 1 in a random rectangle, or everywhere."""
    drawn = torch.rand(5, generator=keyed_generator(seed, _MASKS, i)).tolist()
    mask = torch.zeros(1, *size)
    if drawn[0] < 0.25:
        return mask + 1
    spans = []
    for side, share, place in zip(size, drawn[1:3], drawn[3:], strict=True):
        length = max(1, round(side * (_LEAST_SIDE + share * (_MOST_SIDE - _LEAST_SIDE))))
        start = round(place * (side - length))
        spans.append(slice(start, start + length))
    mask[:, spans[0], spans[1]] = 1
    return mask
