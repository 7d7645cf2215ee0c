"""Pictures of the output folder for report.html: embedded, cut apart, and their difference.

embed          a picture file as a data URI
picture_pairs  dense, compressed and their difference, image by image, from the two sheets
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from diffc.measure import sheets

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

STRENGTH = 4
"""By how much a difference is made stronger, so that small ones can be seen."""
PIXEL_ART = 128
"""Images up to this width are shown with their pixels, without smoothing."""
_MOST_BYTES = 900_000
_MOST_PIXELS = 1600
_MOST_CELL_PIXELS = 320


@dataclass(frozen=True)
class PicturePair:
    """One image of both models, as data URIs.

    Attributes:
        dense: The dense model's.
        compressed: The compressed model's.
        difference: What they differ by, ``STRENGTH`` times as strong; black where they are equal.
        width: The width of each in pixels.
    """

    dense: str
    compressed: str
    difference: str
    width: int


def picture_pairs(dense: Path, compressed: Path, images: int) -> Iterator[PicturePair]:
    """Cut two sheets (diffc/measure/sheets.py) into pairs.

    Args:
        dense: The sheet of the dense model's images.
        compressed: The sheet of the compressed model's.
        images: The number of images on each.

    Yields:
        A pair for each image; none if the sheets are of another layout.
    """
    from PIL import Image, ImageChops

    with Image.open(dense) as one, Image.open(compressed) as other:
        if one.size != other.size:
            return
        first, second = one.convert("RGB"), other.convert("RGB")
    for box in sheets.boxes(first.size, images):
        pair = (first.crop(box), second.crop(box))
        difference = ImageChops.difference(*pair).point(lambda value: min(255, STRENGTH * value))
        yield PicturePair(_cell(pair[0]), _cell(pair[1]), _cell(difference), box[2] - box[0])


def embed(path: Path) -> str:
    """Return a picture as a data URI; a large one is scaled down and becomes a JPEG first."""
    data, kind = path.read_bytes(), "png"
    if len(data) > _MOST_BYTES:
        data, kind = _smaller(path), "jpeg"
    return _data_uri(data, kind)


def _cell(picture: Picture) -> str:
    """A small image without loss; a large one as a JPEG of at most ``_MOST_CELL_PIXELS``."""
    if picture.width <= PIXEL_ART:
        return _data_uri(_encoded(picture, "png"), "png")
    small = picture.copy()
    small.thumbnail((_MOST_CELL_PIXELS, _MOST_CELL_PIXELS))
    return _data_uri(_encoded(small, "jpeg"), "jpeg")


def _smaller(path: Path) -> bytes:
    from PIL import Image

    with Image.open(path) as picture:
        small = picture.convert("RGB")
    data = b""
    for pixels in (_MOST_PIXELS, _MOST_PIXELS // 2):
        small.thumbnail((pixels, pixels))
        data = _encoded(small, "jpeg")
        if len(data) <= _MOST_BYTES:
            break
    return data


def _encoded(picture: Picture, kind: str) -> bytes:
    buffer = BytesIO()
    if kind == "png":
        picture.save(buffer, format="PNG", optimize=True)
    else:
        picture.save(buffer, format="JPEG", quality=85)
    return buffer.getvalue()


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
