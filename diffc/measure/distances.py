"""Figures of ``diffc eval`` that need weights or a data set: LPIPS, FID and KID, or their like.

Frechet and kernel distances of both sides' samples to the same reference images, on InceptionV3's
features (then they are FID and KID) or those of an ONNX model that the user names. Both depend on
the number of images: compare them at equal n only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from diffc.events import Work
from diffc.measure.frechet import (
    Extractor,
    features_of,
    frechet_distance,
    inception,
    kernel_distance,
    lpips_per_pair,
    lpips_weights,
    onnx_extractor,
    statistics,
)
from diffc.measure.quality import Samples, estimate

INCEPTION = "inception"


@dataclass(frozen=True)
class Features:
    """A feature extractor and its name, as reports say it."""

    name: str
    extract: Extractor


def features(wanted: str) -> Features:
    """``inception``, or the ONNX file named. Raises as ``inception`` and ``onnx_extractor`` do."""
    if wanted == INCEPTION:
        return Features("InceptionV3", inception())
    path = Path(wanted)
    return Features(path.name, onnx_extractor(path))


def perceptual(pair: Samples) -> dict[str, Any]:
    """LPIPS between the pairs: mean, 95 % interval, and how the samples were made."""
    values = lpips_per_pair(pair.dense, pair.compressed)
    return {"lpips": {**estimate(values).as_dict(), "network": "AlexNet", **pair.origin()}}


def check_perceptual() -> None:
    """Raise UnavailableError now, before samples are made, when LPIPS cannot be had."""
    lpips_weights()


def to_reference(pair: Samples, reference: Tensor, used: Features) -> Work[dict[str, Any]]:
    """``frechet`` and ``kernel``: each side's distance to ``reference`` (M, C, H, W) in [-1, 1]."""
    real = yield from features_of(used.extract, reference)
    held = statistics(real, used.name)
    sides = {}
    for side, images in (("dense", pair.dense), ("compressed", pair.compressed)):
        sides[side] = yield from features_of(used.extract, images)
    how = {
        **pair.origin(),
        "features": used.name,
        "reference": {"n": held.n, "sha256": held.digest},
    }
    measures: dict[str, Callable[[Any], float]] = {
        "frechet": lambda rows: frechet_distance(statistics(rows, used.name), held),
        "kernel": lambda rows: kernel_distance(rows, real),
    }
    return {
        name: {**{side: measure(rows) for side, rows in sides.items()}, **how}
        for name, measure in measures.items()
    }
