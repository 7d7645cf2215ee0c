"""The kernel distance on the dense model's own features: unbiased for sets of any size.

Binkowski et al. 2018, with KID's kernel, on features that are scaled to the reference's mean 0 and
variance 1, since activations of different channels differ by orders of magnitude.
"""

from __future__ import annotations

from diffc.measure.quality.features import Features
from diffc.measure.quality.kernel import kernel_distance, kernel_left_out
from diffc.measure.quality.own_distance import OwnDistance, OwnFigure


class OwnKernel(OwnDistance):
    """The squared maximum mean discrepancy of the scaled features."""

    name = "own-kernel"
    label = "own kernel distance"
    order = 36

    def distance(self, features: Features, reference: Features) -> OwnFigure:
        """The distance of features (N, D) to a reference (M, D)."""
        mean, spread = reference.mean(0), reference.std(0, ddof=1)
        varies = spread > 1e-6 * spread.max()  # a channel that never varies says nothing
        ours, theirs = (((rows - mean) / spread)[:, varies] for rows in (features, reference))
        value = kernel_distance(ours, theirs)
        n = len(ours)
        return OwnFigure(value, n * value - (n - 1) * kernel_left_out(ours, theirs))


METRIC = OwnKernel()
