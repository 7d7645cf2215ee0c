"""Writes images where a user says: one file, numbered files, or a grid.

    a.png of one image       a.png
    a.png of three images    a-0.png, a-1.png, a-2.png; as a grid: a.png

A file that is there is never overwritten in silence. PNG files need numpy alone; other formats need
Pillow. ``.npy`` holds the samples themselves.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from .checks import MOST_IMAGES, check_whole_number
from .errors import BadRequest, in_short
from .files import no_place
from .images import grid, to_uint8, write_file, write_png
from .values import Array

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
ARRAY = ".npy"
_OWN_FORMAT = ".png"
"""What is written without Pillow."""


def output_files(out: Path, n: int, as_grid: bool = False) -> list[Path]:
    """Return the files that ``n`` images go to.

    Raises:
        BadRequest: The name does not end as a picture's, or an array's, or ``n`` is out of range.
    """
    check_whole_number("n, the number of images,", n, 1, MOST_IMAGES)
    if out.suffix.lower() not in (*PICTURES, ARRAY):
        raise BadRequest(f"--out must end in {', '.join(PICTURES)} or {ARRAY}, not '{out.name}'")
    if n == 1 or as_grid or holds_samples(out):
        return [out]
    return [out.with_name(f"{out.stem}-{i}{out.suffix}") for i in range(n)]


def holds_samples(path: Path) -> bool:
    """Return True if a file of this name is an array of samples, and no picture."""
    return path.suffix.lower() == ARRAY


def check_files(files: Sequence[Path], overwrite: bool = False) -> None:
    """Refuse files that cannot be written or would be overwritten, before there are images.

    Raises:
        BadRequest: The folder does not exist or cannot be written to, a file is there, or no
            package here writes its format.
    """
    reason = next((reason for file in files if (reason := no_place(file))), None)
    if reason is not None:
        raise BadRequest(f"--out: {reason}")
    folder = files[0].absolute().parent
    if not folder.is_dir():
        raise BadRequest(f"--out: the folder {files[0].parent} does not exist")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise BadRequest(f"--out: the folder {files[0].parent} cannot be written to by this user")
    for file in files:
        if file.is_dir():
            raise BadRequest(f"--out: {file} is a folder, not a file")
        if file.exists() and not overwrite:
            raise BadRequest(f"{file} exists: name another file with --out, or --force replaces it")
    if files[0].suffix.lower() not in (_OWN_FORMAT, ARRAY):
        _pillow_for(files[0].suffix)


def file_words(files: Sequence[Path]) -> str:
    """Return the files' names in a few words."""
    return str(files[0]) if len(files) == 1 else f"{files[0]} to {files[-1].name}"


def save_samples(samples: Array, files: Sequence[Path]) -> None:
    """Write samples (N, C, H, W) in [-1, 1]: one for each file, or a grid where there is one file.

    Raises:
        BadRequest: A file cannot be written, or the samples are no pictures.
    """
    if holds_samples(files[0]):
        content = io.BytesIO()
        np.save(content, samples)
        write_file(files[0], content.getvalue())
        return
    pixels = to_uint8(samples)
    pictures = [grid(pixels)] if len(files) == 1 else list(pixels)
    for file, picture in zip(files, pictures, strict=True):
        write_picture(file, picture)


def write_picture(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write (H, W, C) with 1 or 3 channels in the format of the file's ending.

    Raises:
        BadRequest: The file cannot be written, Pillow is missing for its format, or the picture is
            too large for it.
    """
    if path.suffix.lower() == _OWN_FORMAT:
        write_png(path, picture)
        return
    image, content = _pillow_for(path.suffix), io.BytesIO()
    pixels = picture[..., 0] if picture.shape[-1] == 1 else picture
    kind = image.registered_extensions()[path.suffix.lower()]
    try:
        image.fromarray(pixels).save(content, format=kind)
    except (OSError, ValueError) as error:
        height, width = pixels.shape[:2]
        reason = f"Pillow takes no {width}x{height} pixels ({in_short(error)}); .png has no limit"
        raise BadRequest(f"cannot write {path}: {reason}") from None
    write_file(path, content.getvalue())


def _pillow_for(ending: str) -> ModuleType:
    """Return Pillow's module. Raises BadRequest where there is none, or none for the format."""
    try:
        from PIL import Image
    except ImportError:
        raise BadRequest(f"{ending} files need Pillow: pip install pillow, or .png") from None
    if Image.registered_extensions().get(ending.lower()) not in Image.SAVE:
        raise BadRequest(
            f"the Pillow that is here writes no {ending} files: name a .png with --out"
        )
    return Image
