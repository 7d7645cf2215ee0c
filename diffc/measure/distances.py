"""Figures of ``diffc eval`` that need weights or a data set: LPIPS, FID and KID, or their like.

Frechet and kernel distances of both sides' samples to the same reference images, on InceptionV3's
features (then they are FID and KID) or those of an ONNX model that the user names. Both depend on
the number of images: compare them at equal n only. Each has its standard error and the hashes of
what it was taken with: the extractor's file, the reference's features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from diffc.measure.frechet import (
    Extractor,
    Statistics,
    features_of,
    frechet_distance,
    frechet_error,
    inception,
    inception_weights,
    kernel_distance,
    kernel_error,
    lpips_per_pair,
    lpips_weights,
    onnx_extractor,
    statistics,
)
from diffc.measure.quality import Samples, estimate
from diffc_export.events import Work
from diffc_runtime.files import file_digest

INCEPTION = "inception"


@dataclass(frozen=True)
class Features:
    """A feature extractor, its name as reports say it, and the hash of its file."""

    name: str
    extract: Extractor
    digest: str


def features(wanted: str) -> Features:
    """``inception``, or the ONNX file named. Raises as ``inception`` and ``onnx_extractor`` do."""
    if wanted == INCEPTION:
        return Features("InceptionV3", inception(), file_digest(inception_weights()))
    path = Path(wanted)
    return Features(path.name, onnx_extractor(path), file_digest(path))


def perceptual(pair: Samples) -> dict[str, Any]:
    """LPIPS between the pairs: mean, 95 % interval, and how the samples were made."""
    values = lpips_per_pair(pair.dense, pair.compressed)
    return {"lpips": {**estimate(values).as_dict(), "network": "AlexNet", **pair.origin()}}


def check_perceptual() -> None:
    """Raise UnavailableError now, before samples are made, when LPIPS cannot be had."""
    lpips_weights()


@dataclass(frozen=True)
class Reference:
    """The features (M, D) of reference images, and what made them."""

    used: Features
    rows: NDArray[np.float64]

    @cached_property
    def statistics(self) -> Statistics:
        """Their mean and covariance. Raises InputError for fewer than two images."""
        return statistics(self.rows, self.used.name)


def reference_features(images: Tensor, used: Features) -> Work[Reference]:
    """Of reference images (M, C, H, W) in [-1, 1]. Raises InputError for what cannot be used."""
    rows = yield from features_of(used.extract, images)
    found = Reference(used, rows)
    assert found.statistics.n == len(rows)
    return found


def to_reference(pair: Samples, reference: Reference) -> Work[dict[str, Any]]:
    """``frechet`` and ``kernel``: each side's distance to the reference images, and its ``se``."""
    used, held = reference.used, reference.statistics
    sides = {}
    for side, images in (("dense", pair.dense), ("compressed", pair.compressed)):
        sides[side] = yield from features_of(used.extract, images)
    how = {
        **pair.origin(),
        "features": used.name,
        "features_sha256": used.digest,
        "reference": {"n": held.n, "sha256": held.digest},
    }
    frechet = {s: frechet_distance(statistics(rows, used.name), held) for s, rows in sides.items()}
    kernel = {side: kernel_distance(rows, reference.rows) for side, rows in sides.items()}
    errors: dict[str, Callable[[Any], float]] = {
        "frechet": lambda rows: frechet_error(rows, held),
        "kernel": lambda rows: kernel_error(rows, reference.rows),
    }
    return {
        name: {**values, "se": {s: errors[name](rows) for s, rows in sides.items()}, **how}
        for name, values in (("frechet", frechet), ("kernel", kernel))
    }
