"""The Frechet distance on the dense model's own features, without the bias of small sets.

A covariance of 32 images in 128 dimensions is singular, and the plain distance of two such sets of
one and the same model is far above 0: the bias falls as 1/n (Chong and Forsyth 2020, arXiv
1911.07023). Here the distance is taken in the few directions that the reference varies most in,
each scaled to variance 1, and the jackknife takes the term in 1/n off for both sets (Quenouille
1956; Efron and Tibshirani 1993, chapter 10). So sets of different sizes can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffc.measure.quality.features import Features
from diffc.measure.quality.own_distance import OwnDistance, OwnFigure
from diffc_runtime.json_types import JsonDict

MOST_DIRECTIONS = 8
IMAGES_PER_DIRECTION = 4
"""The jackknife fails where a set has fewer images for each direction."""


class OwnFrechet(OwnDistance):
    """The distance between Gaussians fitted to the features along the reference's directions."""

    name = "own-frechet"
    label = "own Frechet distance"
    order = 33
    least_images = 2 * IMAGES_PER_DIRECTION
    depends_on = (*OwnDistance.depends_on, "directions")

    def distance(self, features: Features, reference: Features) -> OwnFigure:
        """The distance of features (N, D) to a reference (M, D)."""
        return frechet_of_few(features, reference, Directions.of(reference, len(features)))

    def facts(self, n: int, reference: Features) -> JsonDict:
        """The number of directions."""
        return {"directions": len(Directions.of(reference, n))}


@dataclass(frozen=True)
class Directions:
    """The directions in which reference features vary most: scaled principal components.

    Attributes:
        mean: (D,) of the reference.
        matrix: (D, K): features minus the mean, times it, have variance 1 over the reference.
    """

    mean: NDArray[np.float64]
    matrix: NDArray[np.float64]

    @classmethod
    def of(cls, reference: Features, n: int, most: int = MOST_DIRECTIONS) -> Directions:
        """Those of a reference (M, D) for sets of ``n`` images: at most ``most``, and n / 4.

        Directions in which the reference does not vary are left out.
        """
        mean = reference.mean(0)
        _, scales, axes = np.linalg.svd(reference - mean, full_matrices=False)
        most = min(most, min(n, len(reference)) // IMAGES_PER_DIRECTION)
        count = min(most, int((scales > 1e-6 * scales[0]).sum()))
        return cls(mean, axes[:count].T * (np.sqrt(len(reference) - 1) / scales[:count]))

    def __len__(self) -> int:
        return int(self.matrix.shape[1])

    def __call__(self, features: Features) -> Features:
        """Features (N, D) along the directions, (N, K)."""
        along: Features = (features - self.mean) @ self.matrix
        return along


def frechet_of_few(features: Features, reference: Features, directions: Directions) -> OwnFigure:
    """The distance of features (N, D) to a reference (M, D), along ``directions``."""
    ours, theirs = _Moments.of(directions(features)), _Moments.of(directions(reference))
    whole = _frechet(ours.mean, ours.covariance, theirs)
    pseudo = ours.n * whole - (ours.n - 1) * _frechet(*ours.left_out, theirs)
    without_theirs = _frechet(*theirs.left_out, ours)
    reference_bias = (theirs.n - 1) * (without_theirs.mean() - whole)
    return OwnFigure(float(pseudo.mean() - reference_bias), pseudo)


@dataclass(frozen=True)
class _Moments:
    """Mean (K,) and covariance (K, K) of n rows, and those without each row in turn."""

    n: int
    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    left_out: tuple[NDArray[np.float64], NDArray[np.float64]]

    @classmethod
    def of(cls, rows: Features) -> _Moments:
        n, mean = len(rows), rows.mean(0)
        centred = rows - mean
        scatter = centred.T @ centred
        products = centred[:, :, None] * centred[:, None, :]
        others = (scatter - n / (n - 1) * products) / (n - 2)
        return cls(n, mean, scatter / (n - 1), (mean - centred / (n - 1), others))


def _frechet(
    mean: NDArray[np.float64], covariance: NDArray[np.float64], other: _Moments
) -> NDArray[np.float64]:
    """The distances (...,) of Gaussians with means (..., K) and covariances (..., K, K)."""
    values, vectors = np.linalg.eigh(other.covariance)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ covariance @ root).clip(0)).sum(-1)
    gap = np.square(mean - other.mean).sum(-1)
    traces = np.trace(covariance, axis1=-2, axis2=-1) + np.trace(other.covariance)
    distances: NDArray[np.float64] = gap + traces - 2 * cross
    return distances


METRIC = OwnFrechet()
