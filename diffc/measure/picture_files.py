"""Pictures of samples, for people to look at.

grid        one PNG, dense above compressed
write_pair  two PNGs of one size, to lay one over the other
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from diffc.measure import sheets
from diffc.measure.samples import SamplePair
from diffc_runtime.files import new_file

if TYPE_CHECKING:
    from PIL.Image import Image as Picture


def grid(samples: SamplePair, path: Path, *, columns: int = 8, side: int = 96) -> Path:
    """Write a PNG of the first ``columns`` pairs: a row of dense, a row of compressed, labelled.

    Small images are enlarged by whole factors to about ``side`` pixels, without smoothing.
    """
    from PIL import Image, ImageDraw

    n = min(columns, len(samples.dense))
    height, width = samples.dense.shape[-2:]
    scale = max(1, side // max(height, width))
    cell, margin, label = (width * scale, height * scale), 4, 84
    rows = (("dense", samples.dense), ("compressed", samples.compressed))
    size = (label + n * (cell[0] + margin) + margin, len(rows) * (cell[1] + margin) + margin)
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    for row, (name, images) in enumerate(rows):
        top = margin + row * (cell[1] + margin)
        draw.text((8, top + cell[1] // 2 - 6), name, fill="black")
        for column in range(n):
            picture = to_image(images[column]).resize(cell, Image.Resampling.NEAREST)
            canvas.paste(picture, (label + column * (cell[0] + margin), top))
    with new_file(path) as part:
        canvas.save(part, format="PNG")
    return path


def write_pair(samples: SamplePair, folder: Path, *, side: int = 96) -> tuple[Path, Path]:
    """Write ``dense.png`` and ``compressed.png``: the same images at the same places, no label.

    Sheets (sheets.py) to lay one over the other or to cut apart, enlarged as in ``grid``.
    """
    from PIL import Image

    n = sheets.image_count(len(samples.dense))
    height, width = samples.dense.shape[-2:]
    scale = max(1, side // max(height, width))
    cell = (width * scale, height * scale)
    paths = (folder / "dense.png", folder / "compressed.png")
    for path, images in zip(paths, (samples.dense, samples.compressed), strict=True):
        canvas = Image.new("RGB", sheets.sheet_size(cell, n), "white")
        for i in range(n):
            picture = to_image(images[i]).resize(cell, Image.Resampling.NEAREST)
            canvas.paste(picture, sheets.place(cell, i))
        with new_file(path) as part:
            canvas.save(part, format="PNG")
    return paths


def to_image(image: Tensor) -> Picture:
    """(C, H, W) in [-1, 1] as a Pillow image: RGB of three channels or more, else greyscale.

    A value that is not a number is black.
    """
    from PIL import Image

    pixels = image.float().nan_to_num(-1.0).clamp(-1, 1)
    array = ((pixels + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(array[..., :3] if array.shape[-1] >= 3 else array[..., 0])
