"""The sizes of the images that an engine was built for, and the one that a call wants."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .checks import is_whole_number
from .errors import BadRequest, value_words
from .json_types import JsonObject

if TYPE_CHECKING:
    from .image_inputs import GivenImages
    from .pipeline import Pipeline

_PATCH = 2
"""Latent pixels along each edge of a token, in every SD3."""
_SIZE_IDS = 6
"""The ids of SDXL's base model, whose last two are the target size; its refiner has five."""
_OF_THE_SIZE = ("time_ids", "resolution", "aspect_ratio")
"""The conditions that say the image's size."""


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
    for name, side in (("height", height), ("width", width)):
        if side is not None and not is_whole_number(side):
            raise BadRequest(f"{name} must be a whole number of pixels, not {value_words(side)}")
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
        raise BadRequest(
            f"height and width: the samples are no images here, and of one size, so no {wanted}"
        )
    for size in served:
        if height in (None, size[0]) and width in (None, size[1]):
            return size
    what = wanted if image is None else f"the image's {wanted}"
    kind = "images" if pipe.image_size else "latents"
    raise BadRequest(
        f"the engine was not built for {what}: it makes {kind} of {size_words(served)} "
        "(diffc compile --resolution builds others)"
    )


def size_words(sizes: Sequence[tuple[int, int]]) -> str:
    words = [f"height {height} and width {width}" for height, width in sizes]
    return ", or of ".join(words)


def image_shift(config: JsonObject, shape: Sequence[int]) -> float:
    """Return mu, the shift of a flow's noise levels, for samples of a size.

    It lies on the line through the config's smallest and largest numbers of tokens.

    Args:
        config: The scheduler's.
        shape: The shape of a sample: (C, H, W), or (tokens, channels).
    """
    tokens = shape[0] if len(shape) == 2 else (shape[1] // _PATCH) * (shape[2] // _PATCH)
    fewest = int(config.get("base_image_seq_len", 256))
    most = int(config.get("max_image_seq_len", 4096))
    low, high = float(config.get("base_shift", 0.5)), float(config.get("max_shift", 1.15))
    slope = (high - low) / (most - fewest)
    return float(tokens * slope + (low - slope * fewest))


def at_size(pipe: Pipeline, size: tuple[int, int] | None) -> Pipeline:
    """Return a pipeline with the noise levels of images of ``size``; itself where they are its own.

    A flow's are shifted by the number of tokens.
    """
    if "mu" not in pipe.scheduler_config or size in (None, *pipe.image_sizes[:1]):
        return pipe
    other = copy.copy(pipe)
    shift = image_shift(pipe.scheduler_config, pipe.shape_at(size))
    other.scheduler_config = {**pipe.scheduler_config, "mu": shift}
    return other


def fixed_at_size(
    fixed: Mapping[str, object], size: tuple[int, int] | None
) -> Mapping[str, object]:
    """Return what every prompt shares, for images of another size, where that is a condition.

    SDXL's ids are the original size, the corner of the crop, and the target size or a score;
    PixArt-alpha takes the size and the ratio of height to width.
    """
    if size is None:
        return fixed
    changed = {name: np.array(fixed[name], copy=True) for name in _OF_THE_SIZE if name in fixed}
    if "time_ids" in changed:
        ids = changed["time_ids"]
        ids[..., :2] = size
        if ids.shape[-1] == _SIZE_IDS:
            ids[..., 4:] = size
    if "resolution" in changed:
        changed["resolution"][...] = size
    if "aspect_ratio" in changed:
        changed["aspect_ratio"][...] = size[0] / size[1]
    return {**fixed, **changed}
