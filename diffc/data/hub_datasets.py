"""Reads the folder of a Hugging Face data set, as ``save_to_disk`` writes it, for images.py.

The package ``datasets`` is optional. Nothing is downloaded and no script of a data set runs:
``load_from_disk`` reads Arrow files.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diffc.errors import InputError, UnavailableError

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from PIL import Image

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from PIL import Image

IMAGES, LABELS = ("image", "img", "pixel_values"), ("label", "labels", "class")
SPLIT = "train"


class StoredImages:
    """The rows of a data set: Pillow images, and labels if there are any.

    Raises:
        UnavailableError: The package is missing.
        InputError: The folder is damaged, has no ``train`` split, or has no column of images.
    """

    rows: Dataset

    def __init__(self, path: Path) -> None:
        try:
            from datasets import DatasetDict, load_from_disk
        except ImportError as error:
            raise UnavailableError(
                f"{path} is a Hugging Face data set, and reading it needs the package 'datasets'",
                hint="pip install 'diffc[data]'",
            ) from error
        try:
            dataset = load_from_disk(str(path))
        except Exception as error:  # pyarrow's and the package's own errors
            raise InputError(f"the data set {path} cannot be read: {error}") from error
        if isinstance(dataset, DatasetDict):
            dataset = _split(dataset, path)
        self.path, self.rows = path, dataset
        self.image = _column(dataset, IMAGES)
        self.label = _column(dataset, LABELS)
        if self.image is None:
            raise InputError(
                f"the data set {path} has columns {', '.join(dataset.column_names)}, "
                "none of images",
                hint=f"name it one of {', '.join(IMAGES)}",
            )

    def __len__(self) -> int:
        return len(self.rows)

    def picture(self, i: int) -> Image.Image:
        """Return the image of row ``i``."""
        from PIL import Image

        value = self.rows[int(i)][self.image]
        return value if isinstance(value, Image.Image) else Image.fromarray(np.asarray(value))

    def labels(self) -> NDArray[np.int64] | None:
        """Return the labels, int64 (N,), or None without such a column.

        Labels that are names count in sorted order.

        Raises:
            InputError: The column holds neither whole numbers nor names.
        """
        if self.label is None:
            return None
        values = np.asarray(self.rows[self.label])
        if self.label_names():
            return np.unique(values, return_inverse=True)[1].astype(np.int64)
        if values.ndim != 1 or values.dtype.kind not in "iu":
            raise InputError(
                f"the data set {self.path} has labels '{self.label}' that are neither whole "
                "numbers nor names"
            )
        return values.astype(np.int64)

    def label_names(self) -> list[str]:
        """Return the classes' names in the order of their labels; [] if labels are numbers."""
        if self.label is None:
            return []
        values = np.asarray(self.rows[self.label])
        is_text = values.ndim == 1 and values.dtype.kind == "U"
        return [str(name) for name in np.unique(values)] if is_text else []


def _split(splits: DatasetDict, path: Path) -> Dataset:
    if SPLIT not in splits:
        raise InputError(
            f"the data set {path} has splits {', '.join(splits)}, and no '{SPLIT}'",
            hint="give the folder of the split itself",
        )
    return splits[SPLIT]


def _column(dataset: Dataset, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in dataset.column_names), None)
