"""The kernel distance of each side's samples to reference images; KID on InceptionV3's features.

Binkowski et al. 2018: the unbiased squared MMD. Its standard error is over the sampled images, the
reference being given.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from diffc.measure.quality.features import FeatureDistance, ReferenceFeatures


class Kernel(FeatureDistance):
    """The squared maximum mean discrepancy of the features, with KID's cubic kernel."""

    name = "kernel"
    label = "kernel distance"
    label_on_inception = "KID"
    order = 50

    def distance(self, features: NDArray[np.float64], reference: ReferenceFeatures) -> float:
        """The distance of one side's features (N, D)."""
        return kernel_distance(features, reference.features)

    def error(self, features: NDArray[np.float64], reference: ReferenceFeatures) -> float:
        """The standard error of ``distance``, by the jackknife."""
        return kernel_error(features, reference.features)


def kernel_distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """The unbiased squared MMD of features (N, D), (M, D) with KID's kernel (x.y / D + 1)^3."""

    def within(x: NDArray[np.float64]) -> float:
        k = _products(x, x)
        return float((k.sum() - np.trace(k)) / (len(x) * (len(x) - 1)))

    return within(a) + within(b) - 2 * float(_products(a, b).mean())


def kernel_left_out(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """``kernel_distance`` without each image of ``a`` (N, D) in turn, (N,); N >= 3.

    Leaving one row out of sums that are there already costs nothing.
    """
    n, m = len(a), len(b)
    own, across, other = _products(a, a), _products(a, b), _products(b, b)
    rows = own.sum(1) - np.diag(own)
    within = (rows.sum() - 2 * rows) / ((n - 1) * (n - 2))
    between = (across.sum() - across.sum(1)) / ((n - 1) * m)
    theirs = (other.sum() - np.trace(other)) / (m * (m - 1))
    distances: NDArray[np.float64] = within + theirs - 2 * between
    return distances


def kernel_error(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """The standard error of ``kernel_distance`` over the images of ``a`` (N, D), N >= 3.

    By the jackknife.
    """
    left_out, n = kernel_left_out(a, b), len(a)
    return float(np.sqrt((n - 1) / n * np.square(left_out - left_out.mean()).sum()))


def _products(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """KID's kernel between all rows of (N, D) and (M, D)."""
    product: NDArray[np.float64] = (x @ y.T / x.shape[1] + 1) ** 3
    return product


METRIC = Kernel()
