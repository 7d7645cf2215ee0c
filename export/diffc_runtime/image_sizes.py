"""The sizes of the images that an engine was built for, and the one that a call wants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .errors import BadRequest

if TYPE_CHECKING:
    from .image_inputs import GivenImages
    from .pipeline import Pipeline

_SIZE_IDS = 6
"""The ids of SDXL's base model, whose last two are the target size; its refiner has five."""


def wanted_size(
    pipe: Pipeline, height: object, width: object, image: GivenImages | None
) -> tuple[int, int] | None:
    """Return the size of a call's images in pixels; None for the usual one.

    Args:
        pipe: The pipeline, whose engine is built for one size or several.
        height: What the caller wants; None for any, and for that of the image.
        width: The same.
        image: What the loop begins with; None: noise alone.

    Raises:
        BadRequest: The engine was not built for it; the message names the sizes that it was built
            for.
    """
    served = pipe.image_sizes
    if image is not None:
        given = image.images.shape[-2:]
        if height not in (None, given[0]) or width not in (None, given[1]):
            raise BadRequest(
                f"the image has height {given[0]} and width {given[1]}: leave height and width out"
            )
        height, width = given
    if height is None and width is None:
        return None
    wanted = " x ".join(str(side) for side in (height, width) if side is not None)
    if not served:
        raise BadRequest(f"height and width: the samples are no images here, so no {wanted} either")
    for size in served:
        if height in (None, size[0]) and width in (None, size[1]):
            return size
    what = wanted if image is None else f"the image's {wanted}"
    raise BadRequest(
        f"the engine was not built for {what}: it makes images of {size_words(served)} "
        "(diffc compile --resolution builds others)"
    )


def size_words(sizes: Sequence[tuple[int, int]]) -> str:
    words = [f"height {height} and width {width}" for height, width in sizes]
    return ", or of ".join(words)


def fixed_at_size(
    fixed: Mapping[str, object], size: tuple[int, int] | None
) -> Mapping[str, object]:
    """Return what every prompt shares, for images of another size: SDXL takes it as a condition.

    Its ids are the original size, the corner of the crop, and the target size or a score.
    """
    ids = fixed.get("time_ids")
    if size is None or ids is None:
        return fixed
    changed = np.array(ids, copy=True)
    changed[..., :2] = size
    if changed.shape[-1] == _SIZE_IDS:
        changed[..., 4:] = size
    return {**fixed, "time_ids": changed}
