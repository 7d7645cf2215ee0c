"""Images and masks that a call begins with: image-to-image and inpainting.

    pipe("a blue boot", image=picture, strength=0.6)
    pipe("a red cat", image=picture, mask_image=mask)

As diffusers' pipelines do it: the image is noised to the level of a later step, from which the loop
goes on. Where the mask is black the image stays: after every step it is put back, noised to the
next level. A denoiser that takes mask and masked image as conditions gets them instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from .checks import numpy_of
from .errors import BadRequest, in_short, value_words
from .image_conditions import (
    EDITED_IMAGE,
    IMAGE_CONDITIONS,
    MASK,
    MASKED_IMAGE,
    shrink_masks,
)
from .noise import Streams, fill, image_streams
from .stepping import Scheduler
from .values import Array

if TYPE_CHECKING:
    from .pipeline import Pipeline

Posterior: TypeAlias = tuple[Array, Array]
"""Mean and standard deviation (N, C, h, w) of the latents of images, as a VAE encodes them."""
Encode: TypeAlias = Callable[[Array], Posterior]
"""Images (N, C, H, W) in [-1, 1] -> the posterior of their latents, before any scaling."""

DecodeMasked: TypeAlias = Callable[[Array, Array, Array], Array]
"""Latents (N, c, h, w) as the decoder takes them, images and masks -> images (N, C, H, W)."""
STRENGTH = 0.8
"""How much of the trajectory is done where a call does not say; all of it with a mask."""
_MOST_LOG_VARIANCE, _LEAST_LOG_VARIANCE = 20.0, -30.0
_POSTERIOR = 1
"""The stream of an image's random numbers that its latents are drawn from; 0 is its noise."""


@dataclass(frozen=True)
class GivenImages:
    """What a call begins with.

    Attributes:
        images: (N, C, H, W) in [-1, 1]; N is 1 for one image of all samples.
        masks: (N, 1, H, W), 1 where the image is made anew and 0 where it stays; None for none.
        strength: Above 0 to 1: how much of the trajectory is done.
    """

    images: Array
    masks: Array | None
    strength: float

    @property
    def count(self) -> int:
        """The number of images, or of masks where these are more: one image may have several."""
        return max(len(self.images), 0 if self.masks is None else len(self.masks))


def read_given(image: object, mask: object, strength: object, channels: int) -> GivenImages | None:
    """Return what a call gives; None where it gives no image.

    Args:
        image: A Pillow image, an array (H, W, C) or (N, H, W, C) of uint8 or of floats in [0, 1],
            or a list of images; None for none.
        mask: The same, of one channel or more, or of bool; white and True are made anew.
        strength: Above 0 to 1; None: 0.8, and 1 with a mask.
        channels: Of the images that the model knows: 1 or 3.

    Raises:
        BadRequest: There is a mask or a strength without an image, the mask has another size, or
            something else is given.
    """
    if image is None:
        if mask is not None or strength is not None:
            word = "strength" if mask is None else "mask_image"
            raise BadRequest(f"{word} needs an image beside it")
        return None
    several = _several("image", image)
    images = np.concatenate([_pixels("image", one, channels) for one in several]) * 2 - 1
    masks = None
    if mask is not None:
        several = _several("mask_image", mask)
        masks = np.concatenate([_pixels("mask_image", one, 1) for one in several])
        _check_mask(masks, images)
        masks = (masks >= 0.5).astype(np.float32)
    usual = STRENGTH if masks is None else 1.0
    return GivenImages(images, masks, usual if strength is None else _check_strength(strength))


def _check_strength(strength: object) -> float:
    number = isinstance(strength, (int, float, np.floating)) and not isinstance(strength, bool)
    if not number or not 0 < strength <= 1:  # type: ignore[operator]
        raise BadRequest(f"strength must be a number above 0, up to 1, not {value_words(strength)}")
    return float(strength)  # type: ignore[arg-type]


def _check_mask(masks: Array, images: Array) -> None:
    if masks.shape[-2:] != images.shape[-2:]:
        raise BadRequest(
            f"mask_image is {_size(masks)} and image is {_size(images)} (height x width): "
            "a mask has the size of its image"
        )
    if len(masks) not in (1, len(images)) and len(images) != 1:
        raise BadRequest(
            f"there are {len(masks)} masks for {len(images)} images: give one mask, or as many"
        )


def _size(images: Array) -> str:
    return "x".join(str(side) for side in images.shape[-2:])


def _several(what: str, given: object) -> Sequence[object]:
    if isinstance(given, (list, tuple)):
        if not given:
            raise BadRequest(f"{what} is an empty list: give an image, or several")
        sizes = {_sides(one) for one in given}
        if len(sizes) > 1:
            raise BadRequest("the images of one call must have one size")
        return given
    return [given]


def _sides(given: object) -> tuple[int, ...]:
    """Return (height, width) of one image, or of an array of several; () of what is none."""
    size = getattr(given, "size", None)
    if hasattr(given, "convert") and isinstance(size, tuple):
        return size[::-1]
    array = numpy_of(given)
    if array is None:
        return ()
    return array.shape[1:3] if array.ndim == 4 else array.shape[:2]


def _pixels(what: str, given: object, channels: int) -> Array:
    """Return an image, or an array of several, as float32 (N, C, H, W) in [0, 1]."""
    array = _array(what, given, channels)
    if array.ndim == 2:
        array = array[..., None]
    array = array[None] if array.ndim == 3 else array
    if array.ndim != 4 or array.shape[-1] not in (1, 3, 4):
        raise BadRequest(
            f"{what} is an array {array.shape}: (height, width, channels) is needed, or (n, ...)"
        )
    if array.shape[-1] == 4:
        array = array[..., :3]
    if channels == 1 and array.shape[-1] == 3:  # luma, ITU-R 601, as Pillow converts
        array = (array @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
    if channels == 3 and array.shape[-1] == 1:
        array = np.repeat(array, 3, axis=-1)
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2))


def _array(what: str, given: object, channels: int) -> Array:
    """Return pixels (..., H, W, C) or (H, W) as float32 in [0, 1]."""
    if hasattr(given, "convert") and hasattr(given, "mode"):  # a Pillow image
        given = _of_pillow(what, given, "L" if channels == 1 else "RGB")
    read = numpy_of(given)
    array = np.asarray(None) if read is None else read
    if array.dtype == np.uint8:
        unit: Array = array.astype(np.float32) / np.float32(255)
        return unit
    if array.dtype == np.bool_ and what == "mask_image":
        return array.astype(np.float32)
    if not np.issubdtype(array.dtype, np.floating):
        kind = type(given).__name__
        words = f"an array of {array.dtype}" if isinstance(given, np.ndarray) else f"a {kind}"
        raise BadRequest(
            f"{what} is {words}: give a Pillow image, or an array of uint8 or of floats in [0, 1]"
        )
    if not np.isfinite(array).all():
        raise BadRequest(f"{what} has values that are not numbers (NaN or infinity)")
    if array.size and not (array.min() >= 0 and array.max() <= 1):
        raise BadRequest(
            f"{what} has values from {array.min():g} to {array.max():g}: floats are in [0, 1]"
        )
    return array.astype(np.float32)


def _of_pillow(what: str, picture: Any, mode: str) -> Array:
    """Return a Pillow image as an array of uint8; one of floats as it is.

    Raises:
        BadRequest: It was closed, its file is damaged, or it has colours that Pillow cannot turn
            into others.
    """
    try:
        return _opened_pillow(picture, mode)
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, ...
        raise BadRequest(f"{what} cannot be read: {in_short(error)}") from None


def _opened_pillow(picture: Any, mode: str) -> Array:
    """Return a Pillow image's pixels.

    Pillow's own conversion clips whole numbers of 16 bits at 255, and floats to whole numbers.
    """
    if picture.mode == "F":
        return np.asarray(picture)
    if picture.mode.startswith("I"):
        wide = np.asarray(picture).astype(np.float64)
        if picture.mode != "I" or wide.max(initial=0) > 255:
            wide = (wide / 257).round()
        return np.clip(wide, 0, 255).astype(np.uint8)
    return np.asarray(picture.convert(mode))


def open_image(path: Path) -> Any:
    """Open an image file as a Pillow image, upright.

    Raises:
        BadRequest: Pillow is missing, or the file cannot be read.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise BadRequest("images are read by Pillow: pip install pillow") from None
    try:
        with Image.open(path) as file:
            upright = ImageOps.exif_transpose(file)
            wide = upright.mode.startswith("I") or upright.mode == "F"
            return upright if wide else upright.convert("RGB")
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, ...
        raise BadRequest(f"cannot read the image {path}: {error}") from None


def image_arguments(
    image: Path | None, mask: Path | None, strength: float | None
) -> dict[str, object]:
    """Return the arguments of a call for the files on a command line; {} without an image.

    Args:
        image: The image's file.
        mask: The mask's file.
        strength: How much of the loop is done; None: the usual.

    Raises:
        BadRequest: A file cannot be read, or there is a mask or a strength without an image.
    """
    if image is None:
        if mask is not None or strength is not None:
            word = "--strength" if mask is None else "--mask"
            raise BadRequest(f"{word} needs an --image beside it")
        return {}
    opened = None if mask is None else open_image(mask)
    return {"image": open_image(image), "mask_image": opened, "strength": strength}


@dataclass(frozen=True)
class Start:
    """What the loop of a request begins with.

    Attributes:
        clean: (N, ...) the images as the denoiser's samples; None: the loop begins with noise.
        masks: (N, ...) 1 where samples are made anew; None: everywhere.
        is_noise: True if the loop begins with noise alone although there is an image.
        strength: How much of the trajectory is done.
        conditions: What the denoiser takes of the images, (N, ...) by name.
        pixels: Images and masks as they were given, for a decoder that takes them; None without a
            mask.
    """

    clean: Array | None = None
    masks: Array | None = None
    is_noise: bool = True
    strength: float = 1.0
    conditions: Mapping[str, Array] = field(default_factory=dict)
    pixels: tuple[Array, Array] | None = None

    def pixels_of(self, rows: slice) -> tuple[Array, Array] | None:
        """Return image and mask of each row of a batch, (B, C, H, W) and (B, 1, H, W)."""
        if self.pixels is None:
            return None
        images, masks = (given if len(given) == 1 else given[rows] for given in self.pixels)
        count = rows.stop - rows.start
        return (
            np.broadcast_to(images, (count, *images.shape[1:])),
            np.broadcast_to(masks, (count, *masks.shape[1:])),
        )

    def begin(
        self, sampler: Scheduler, noise: Array, rows: slice
    ) -> Callable[[int, Array], None] | None:
        """Turn ``noise`` (B, ...) into what the loop begins with, in place.

        Args:
            sampler: The steps that are done.
            noise: Standard normal.
            rows: Of the request, those of this batch.

        Returns:
            What is done after a step: it puts the image back where the mask keeps it. None for
            nothing.
        """
        clean = None if self.clean is None else self.clean[rows]
        after = None
        if clean is not None and self.masks is not None:
            kept = np.broadcast_to(self.masks[rows] == 0, clean.shape)
            after = partial(_put_back, sampler, clean, noise.copy(), kept)
        if clean is None or self.is_noise:
            noise *= np.float32(sampler.init_noise_sigma)
        else:
            noise[...] = sampler.add_noise(clean, noise, 0)
        return after


def _put_back(
    sampler: Scheduler, clean: Array, noise: Array, kept: Array, i: int, x: Array
) -> None:
    np.copyto(x, sampler.add_noise(clean, noise, i + 1), where=kept)


NOISE = Start()
"""A loop that begins with noise alone."""


def begin_with(pipe: Pipeline, given: GivenImages, n: int, seed: int, first: int) -> Start:
    """Return what the loop of a request with images begins with.

    Args:
        pipe: The pipeline.
        given: The images, in the pipeline's size.
        n: The number of samples.
        seed: Of the request.
        first: The index of the first sample.

    Raises:
        BadRequest: The pipeline has no VAE encoder, or the number of images is another one.
    """
    streams, names = image_streams(seed, first, n, _POSTERIOR), {s.name for s in pipe.conditions}
    images = _rows("image", given.images, n)
    masks = None if given.masks is None else _rows("mask_image", given.masks, n)
    _check_mask_fits(names, masks is not None)
    if EDITED_IMAGE in names:
        mean, _ = _encode(pipe, images)
        return Start(conditions={EDITED_IMAGE: np.broadcast_to(mean, (n, *mean.shape[1:]))})
    whole, pixels = given.strength == 1, None if masks is None else (images, masks)
    if MASK in names and masks is not None:
        clean = None if whole else _samples(pipe, images, streams)
        masked = _samples(pipe, images * (masks < 0.5), streams)
        conditions = {MASK: _latent_masks(masks, masked), MASKED_IMAGE: masked}
        return Start(clean, None, whole, given.strength, conditions, pixels)
    clean = _samples(pipe, images, streams)
    if masks is None:
        return Start(pipe.pack(clean), None, False, given.strength)
    small = np.broadcast_to(_latent_masks(masks, clean), clean.shape)
    return Start(pipe.pack(clean), pipe.pack(small), whole, given.strength, pixels=pixels)


def _check_mask_fits(names: set[str], has_mask: bool) -> None:
    if MASK in names and not has_mask:
        raise BadRequest("this model fills in a masked image: give mask_image beside image")
    if EDITED_IMAGE in names and has_mask:
        raise BadRequest("this model edits whole images: leave mask_image out")


def check_has_image(names: set[str], given: Mapping[str, object]) -> None:
    """Refuse a call without an image where the denoiser takes one as a condition.

    Args:
        names: The denoiser's conditions.
        given: The conditions that the call gives.

    Raises:
        BadRequest: One is missing.
    """
    missing = [name for name in IMAGE_CONDITIONS if name in names - set(given)]
    if not missing:
        return
    if EDITED_IMAGE in missing:
        raise BadRequest("this model edits an image: give image")
    raise BadRequest("this model fills in a masked image: give image and mask_image")


def _rows(what: str, images: Array, n: int) -> Array:
    if len(images) not in (1, n):
        raise BadRequest(f"{what} has {len(images)} images, and {n} are made: give one, or as many")
    return images


def _encode(pipe: Pipeline, images: Array) -> Posterior:
    if pipe.encode is None:
        raise BadRequest(
            "image: there is no VAE encoder here, which turns an image into latents; an output "
            "folder of an older diffc gets one by the command that made it"
        )
    return pipe.encode(images)


def _samples(pipe: Pipeline, images: Array, streams: Streams) -> Array:
    """Return images as samples (N, C, h, w), one for each stream: drawn from their posterior.

    A model of pixels denoises the images themselves.
    """
    n = len(streams)
    if pipe.encode is None and pipe.decode is None and pipe.image_size is not None:
        return np.broadcast_to(images, (n, *images.shape[1:]))
    mean, deviation = _encode(pipe, images)
    noise = np.empty((n, *mean.shape[1:]), np.float32)
    fill(streams, noise)
    return pipe.scale(mean + deviation * noise)


def _latent_masks(masks: Array, clean: Array) -> Array:
    """Return a mask for each row of samples (N, C, h, w), at their size."""
    small: Array = shrink_masks(masks, clean.shape[-2:])
    return np.broadcast_to(small, (len(clean), *small.shape[1:]))


def split_posterior(moments: Array) -> Posterior:
    """Return mean and standard deviation of mean and log variance in one array (N, 2 C, h, w)."""
    mean, log_variance = np.split(moments.astype(np.float32, copy=False), 2, axis=1)
    bounded = np.clip(log_variance, _LEAST_LOG_VARIANCE, _MOST_LOG_VARIANCE)
    return mean, np.exp(np.float32(0.5) * bounded)
