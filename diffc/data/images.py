"""Reads a folder of images, an .npz of arrays or a stored data set as a CleanSet for a denoiser.

A file that cannot be read, and a picture of another size, are skipped and counted; nothing is
resized unless the caller asks for it (``fit="resize"``: centre crop to the aspect, then Lanczos).
Modes are converted (greyscale for one channel, RGB for three; an alpha channel is dropped). Which
files are used under a limit depends on the seed and the sorted file names alone.

    read_images   the one entry: folder, .npz or data set -> (CleanSet, ImageCounts)
    ImageCounts   how many images were used and skipped
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from diffc.data.clean import CleanSet
from diffc.data.hub_datasets import StoredImages
from diffc.data.image_folders import (
    IMAGE_KEYS,
    LABEL_KEYS,
    SUFFIXES,
    check_class_count,
    class_folders,
    class_of,
    image_files,
    is_dataset,
)
from diffc.errors import InputError
from diffc_runtime.json_types import JsonDict

Fit = Literal["skip", "resize"]
Pixels = NDArray[np.float32]


@dataclass(frozen=True)
class ImageCounts:
    """How many images were used, and how many were skipped and why.

    Attributes:
        used: Images in the result.
        skipped_corrupt: Files that cannot be read.
        skipped_size: Images of another size.
        notes: How the data were interpreted, where more than one way is possible.
    """

    used: int = 0
    skipped_corrupt: int = 0
    skipped_size: int = 0
    notes: tuple[str, ...] = ()

    @property
    def skipped(self) -> int:
        """The number of images that were not used."""
        return self.skipped_corrupt + self.skipped_size

    def __str__(self) -> str:
        return (
            f"{self.used} images used, {self.skipped_corrupt} unreadable, "
            f"{self.skipped_size} of another size"
        )


@dataclass(frozen=True)
class ImageFormat:
    """The images that the denoiser takes.

    Attributes:
        channels: 1 (greyscale) or 3 (RGB).
        height: In pixels.
        width: In pixels.
        fit: How images of another size are handled.
    """

    channels: int
    height: int
    width: int
    fit: Fit = "skip"

    def __str__(self) -> str:
        colour = "greyscale" if self.channels == 1 else "RGB"
        return f"{self.width}x{self.height} {colour}"


def read_images(
    source: Path,
    shape: tuple[int, int, int],
    *,
    limit: int | None = None,
    seed: int = 0,
    fit: Fit = "skip",
    classes: int | None = None,
) -> tuple[CleanSet, ImageCounts]:
    """Read images for a denoiser.

    Args:
        source: A folder with all below it, an .npz or a stored data set.
        shape: (C, H, W) of the denoiser's input; C is 1 or 3.
        limit: The largest number of images, a subset drawn by ``seed``; None for all.
        seed: The seed of the order.
        fit: "skip" leaves out images of another size, "resize" crops and resizes them.
        classes: The number of classes of a class-conditional model; labels are then the positions
            of the class folders (image_folders.py), or the .npz's ``arr_1``/``labels``/``y``. None
            for other models.

    Returns:
        The images, and how many were used and skipped.

    Raises:
        InputError: There are no images, none that fits, or another number of classes.
    """
    wanted = ImageFormat(*shape, fit=fit)
    if wanted.channels not in (1, 3):
        raise InputError(
            f"the model's input has {wanted.channels} channels; images have 1 or 3",
            hint="a VAE beside the denoiser would encode them: give the whole pipeline's folder, "
            "or latents, as 'sample' in --data FILE.safetensors",
        )
    if not source.exists():
        raise InputError(f"no such data: {source}", hint="give a folder of images or an .npz file")
    if source.suffix == ".npz":
        return _read_npz(source, wanted, limit, seed, classes)
    if not source.is_dir():
        raise InputError(f"{source} is neither a folder nor an .npz file")
    if is_dataset(source):
        return _read_dataset(source, wanted, limit, seed, classes)
    return _read_folder(source, wanted, limit, seed, classes)


def _read_folder(
    folder: Path, wanted: ImageFormat, limit: int | None, seed: int, classes: int | None
) -> tuple[CleanSet, ImageCounts]:
    files = image_files(folder)
    if not files:
        raise InputError(
            f"no images in {folder}", hint=f"looked for {', '.join(sorted(SUFFIXES))} files"
        )
    names, notes = class_folders(folder, classes) if classes else ([], ())
    counts, pixels, labels = ImageCounts(notes=notes), [], []
    for file in shuffle_files(files, seed):
        if limit is not None and counts.used >= limit:
            break
        counts, image = _tally(counts, partial(_read_file, file, wanted))
        if image is not None:
            pixels.append(image)
            labels.append(names.index(class_of(folder, file)) if classes else 0)
    conditions = {"class_labels": torch.tensor(labels)} if classes else {}
    return _clean_set(pixels, conditions, folder, counts, wanted), counts


def shuffle_files(files: list[Path], seed: int) -> Iterator[Path]:
    """Return the files in an order that depends on ``seed`` and their number alone."""
    for i in np.random.default_rng(seed).permutation(len(files)):
        yield files[i]


class _WrongSize(Exception):
    """The picture is intact, but does not have the model's size."""


def _tally(counts: ImageCounts, read: Callable[[], Pixels]) -> tuple[ImageCounts, Pixels | None]:
    try:
        image = read()
    except _WrongSize:
        return replace(counts, skipped_size=counts.skipped_size + 1), None
    except Exception:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        return replace(counts, skipped_corrupt=counts.skipped_corrupt + 1), None
    return replace(counts, used=counts.used + 1), image


def _read_file(file: Path, wanted: ImageFormat) -> Pixels:
    from PIL import Image, ImageOps

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(file) as opened:
            image = ImageOps.exif_transpose(opened)
            image.load()
    return _fit_image(image, wanted)


def _fit_image(image: Any, wanted: ImageFormat) -> Pixels:
    """Convert a Pillow image to float32 (C, H, W) in [-1, 1]."""
    from PIL import Image, ImageOps

    size = (wanted.width, wanted.height)
    if image.size != size and wanted.fit == "skip":
        raise _WrongSize
    if image.mode.startswith("I"):  # 16-bit greyscale: Pillow's own conversion would clip it
        image = Image.fromarray((np.asarray(image, dtype=np.float64) / 257).round().astype("uint8"))
    image = image.convert("L" if wanted.channels == 1 else "RGB")
    if image.size != size:
        image = ImageOps.fit(image, size, method=Image.Resampling.LANCZOS)
    array = np.asarray(image, dtype=np.float32).reshape(wanted.height, wanted.width, -1)
    return np.ascontiguousarray(array.transpose(2, 0, 1) / 127.5 - 1.0)


def _read_row(stored: StoredImages, row: int, wanted: ImageFormat) -> Pixels:
    return _fit_image(stored.picture(row), wanted)


def _read_dataset(
    folder: Path, wanted: ImageFormat, limit: int | None, seed: int, classes: int | None
) -> tuple[CleanSet, ImageCounts]:
    stored = StoredImages(folder)
    labels = _labels(folder, stored.labels() if classes else None, len(stored), classes)
    names = stored.label_names() if classes else []
    notes = (
        check_class_count(names, classes or 0, f"{folder} has", "names of classes") if names else ()
    )
    counts, pixels, used = ImageCounts(notes=notes), [], []
    for i in np.random.default_rng(seed).permutation(len(stored)):
        if limit is not None and counts.used >= limit:
            break
        counts, image = _tally(counts, partial(_read_row, stored, i, wanted))
        if image is not None:
            pixels.append(image)
            used.append(i)
    conditions = {} if labels is None else {"class_labels": torch.from_numpy(labels[used])}
    return _clean_set(pixels, conditions, folder, counts, wanted), counts


def _read_npz(
    file: Path, wanted: ImageFormat, limit: int | None, seed: int, classes: int | None
) -> tuple[CleanSet, ImageCounts]:
    images, labels = _load_arrays(file, classes)
    images, notes = _convert_layout(file, images)
    order = np.random.default_rng(seed).permutation(len(images))
    counts, pixels, used = ImageCounts(notes=notes), [], []
    for i in order:
        if limit is not None and counts.used >= limit:
            break
        counts, image = _tally(counts, partial(_array_image, images[i], wanted))
        if image is not None:
            pixels.append(image)
            used.append(i)
    conditions = {} if labels is None else {"class_labels": torch.from_numpy(labels[used])}
    return _clean_set(pixels, conditions, file, counts, wanted), counts


def _load_arrays(file: Path, classes: int | None) -> tuple[Any, NDArray[np.int64] | None]:
    """Return (images, labels or None) of an .npz; never unpickles."""
    try:
        with np.load(file, allow_pickle=False) as npz:
            arrays = {name: npz[name] for name in npz.files}
    except Exception as error:
        raise InputError(f"{file} cannot be read as an .npz of arrays: {error}") from error
    images = _first_array(arrays, IMAGE_KEYS)
    if images is None or images.ndim != 4 or not len(images):
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items()) or "nothing"
        raise InputError(
            f"{file} holds {shapes}; images of shape (N, H, W, C) or (N, C, H, W) are needed",
            hint=f"name the array one of {', '.join(IMAGE_KEYS)}",
        )
    return images, _labels(file, _first_array(arrays, LABEL_KEYS), len(images), classes)


def _convert_layout(file: Path, images: Any) -> tuple[Any, tuple[str, ...]]:
    """Return uint8 (N, H, W, C) or float32 (N, C, H, W) in [-1, 1], and notes about it."""
    first, last = images.shape[1] in (1, 3), images.shape[3] in (1, 3)
    if images.dtype == np.uint8:
        return (images.transpose(0, 2, 3, 1) if first and not last else images), ()
    images = images.transpose(0, 3, 1, 2) if last and not first else images
    images = np.asarray(images, dtype=np.float32)
    sound = [image for image in images if np.isfinite(image).all() and np.abs(image).max() < 1.001]
    if not sound and np.nanmax(np.abs(images)) > 1:
        raise InputError(
            f"{file} holds floats from {np.nanmin(images):g} to {np.nanmax(images):g}",
            hint="floats are in [-1, 1] or [0, 1]; save 0..255 as uint8",
        )
    if not sound or min(float(image.min()) for image in sound) < 0:
        return images, ()
    note = f"{file.name} has no float below 0: taken as [0, 1] and scaled to [-1, 1]"
    return images * 2 - 1, (note,)


def _first_array(found: JsonDict, keys: tuple[str, ...]) -> Any:
    return next((found[key] for key in keys if key in found), None)


def _labels(file: Path, labels: Any, n: int, classes: int | None) -> NDArray[np.int64] | None:
    if not classes:
        return None
    if labels is None or labels.shape != (n,):
        raise InputError(
            f"{file} has no labels (N,), and the model is class-conditional",
            hint=f"name them one of {', '.join(LABEL_KEYS)}",
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise InputError(f"{file} has labels outside of the model's 0..{classes - 1}")
    return np.asarray(labels, dtype=np.int64)


def _array_image(array: Any, wanted: ImageFormat) -> Pixels:
    """Convert uint8 (H, W, C) in 0..255, or float (C, H, W) in [-1, 1], to float32 (C, H, W)."""
    from PIL import Image

    if array.dtype == np.uint8:
        flat = array[..., 0] if array.shape[-1] == 1 else array
        return _fit_image(Image.fromarray(flat), wanted)
    if array.shape != (wanted.channels, wanted.height, wanted.width):
        raise _WrongSize
    image = np.asarray(array, dtype=np.float32)
    if not np.isfinite(image).all() or np.abs(image).max() > 1.0 + 1e-3:
        raise ValueError("floats outside of [-1, 1]")
    return image


def _clean_set(
    pixels: list[Pixels],
    conditions: dict[str, torch.Tensor],
    source: Path,
    counts: ImageCounts,
    wanted: ImageFormat,
) -> CleanSet:
    if not pixels:
        raise InputError(
            f"no usable image in {source} for a {wanted} model: {counts}",
            hint="--image-fit resize crops and resizes images of another size"
            if counts.skipped_size
            else None,
        )
    sample = torch.from_numpy(np.stack(pixels))
    return CleanSet(sample, conditions, f"{counts.used} images from {source.name}")
