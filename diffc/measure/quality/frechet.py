"""The Frechet distance of each side's samples to reference images; FID on InceptionV3's features.

Heusel et al. 2017. Its standard error is over the sampled images, the reference being given. The
distance is biased upwards, the more the fewer the images: compare it at equal n only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from diffc.errors import InputError
from diffc.measure.quality.features import (
    FeatureDistance,
    ReferenceFeatures,
    Statistics,
    statistics,
)


class Frechet(FeatureDistance):
    """The distance between Gaussians fitted to the features."""

    name = "frechet"
    label = "Frechet distance"
    label_on_inception = "FID"
    order = 40

    def distance(self, features: NDArray[np.float64], reference: ReferenceFeatures) -> float:
        """The distance of one side's features (N, D)."""
        return frechet_distance(statistics(features, reference.name), reference.statistics)

    def error(self, features: NDArray[np.float64], reference: ReferenceFeatures) -> float:
        """The standard error of ``distance``, by the bootstrap."""
        return frechet_error(features, reference.statistics)


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """|mu_a - mu_b|^2 + tr(A + B - 2 (A B)^1/2).

    tr (A B)^1/2 is taken as the sum of the square roots of the eigenvalues of A^1/2 B A^1/2, which
    is symmetric: no complex root, and singular covariances (n < D) need no padding.

    Raises:
        InputError: The two are of different networks.
    """
    if a.extractor != b.extractor or a.mean.shape != b.mean.shape:
        raise InputError(f"features of {a.extractor} and of {b.extractor} cannot be compared")
    root = _square_root(a.covariance)
    inner = np.linalg.eigvalsh(root @ b.covariance @ root)
    cross = np.sqrt(inner.clip(0)).sum()
    gap = a.mean - b.mean
    return float(gap @ gap + np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross)


def frechet_error(
    features: NDArray[np.float64], reference: Statistics, resamples: int = 0
) -> float:
    """The standard error of the distance of features to ``reference``, by the bootstrap.

    With X the centred rows / sqrt(N - 1), tr (A B)^1/2 is the sum of the singular values of
    X B^1/2, so no covariance of a resample is ever built.

    Args:
        features: (N, D).
        reference: The other side of the distance, which is not resampled.
        resamples: How many. 0 chooses 200, or 20 where each costs a large decomposition.
    """
    count = resamples or (200 if min(features.shape) <= 256 else 20)
    root, generator = _square_root(reference.covariance), np.random.default_rng(0)
    distances = []
    for _ in range(count):
        rows = features[generator.integers(len(features), size=len(features))]
        centred = (rows - rows.mean(0)) / np.sqrt(len(rows) - 1)
        cross = np.linalg.svd(centred @ root, compute_uv=False).sum()
        gap = rows.mean(0) - reference.mean
        distances.append(gap @ gap + np.square(centred).sum() - 2 * cross)
    return float(np.std(distances, ddof=1))


def _square_root(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """The symmetric square root of a covariance (D, D)."""
    values, vectors = np.linalg.eigh(covariance)
    root: NDArray[np.float64] = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    return root


METRIC = Frechet()
