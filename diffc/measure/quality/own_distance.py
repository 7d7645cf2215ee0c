"""A distance of each side's samples on the features of the dense model itself.

    OwnFeatures   both sides' features and the reference's, beside a pair
    OwnDistance   a metric of them

Where the features come from is in own_features.py, which needs torch; reports need none.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diffc.measure.quality.base import Metric, MetricFigure
from diffc.measure.quality.features import Features, ReferenceFeatures
from diffc_export.events import Progress, Work
from diffc_runtime.json_types import JsonDict

if TYPE_CHECKING:
    from diffc.measure.quality.features import ReferenceImages
    from diffc.measure.samples import SamplePair

NAME = "the dense model"
"""What figures say that the features are of."""


@dataclass(frozen=True)
class OwnFeatures:
    """What the distances of a pair on the dense model's own features are taken from.

    Attributes:
        dense: Of the dense model's samples, (N, D).
        compressed: Of the compressed model's from the same noise, (N, D).
        reference: Of the samples that both are compared with.
    """

    dense: Features
    compressed: Features
    reference: ReferenceFeatures


@dataclass(frozen=True)
class OwnFigure:
    """A distance to the reference.

    Attributes:
        value: The distance.
        pseudo: (N,) the jackknife's pseudo-values, one for each image of the set.
    """

    value: float
    pseudo: NDArray[np.float64]

    @property
    def error(self) -> float:
        """The standard error over the images of the set, the reference being given."""
        return _standard_error(self.pseudo)

    def further_than(self, other: OwnFigure) -> tuple[float, float]:
        """By how much this set is further than ``other``, and the standard error of that.

        Image i of both comes from the same noise, so most of what chance does to one it does to
        the other too.
        """
        return self.value - other.value, _standard_error(self.pseudo - other.pseudo)


def _standard_error(pseudo: NDArray[np.float64]) -> float:
    return float(pseudo.std(ddof=1) / np.sqrt(len(pseudo)))


class OwnDistance(Metric):
    """The distance of each side's samples to reference samples, on the dense model's features.

    A subclass defines ``distance``. Every run with enough images measures it, since it needs no
    weights but the model's own.
    """

    better = "lower"
    always = True
    limits = (0.0, math.inf)
    depends_on = (*Metric.depends_on, "features", "features_sha256", "reference")
    note = (
        "own distances: on features of the dense model itself, ± one standard error; about 0 for "
        "samples of the reference's kind, below it by chance"
    )
    least_images = 3
    """The fewest images of a side that have a distance."""

    @abstractmethod
    def distance(self, features: Features, reference: Features) -> OwnFigure:
        """The distance of features (N, D) to a reference (M, D)."""

    def facts(self, n: int, reference: Features) -> JsonDict:
        """What else a figure of ``n`` images says of how it was taken."""
        return {}

    def measure(
        self, pair: SamplePair, reference: ReferenceImages | None
    ) -> Work[MetricFigure | str]:
        """Each side's distance, its standard error, and the paired difference of the sides."""
        own = pair.own
        if own is None:
            return f"{self.label} is left out: no features of the dense model were taken"
        fewest = min(len(own.dense), len(own.reference.features))
        if fewest < self.least_images:
            return (
                f"{self.label} is left out: it needs {self.least_images} images, and there are "
                f"{fewest}"
            )
        sets = (own.dense, own.compressed, own.reference.features)
        if not all(np.isfinite(rows).all() for rows in sets):
            return f"{self.label} is left out: the dense model's own features are not all finite"
        yield Progress(0, 1, f"measuring {self.label}")
        used = own.reference
        dense = self.distance(own.dense, used.features)
        compressed = self.distance(own.compressed, used.features)
        further, error = compressed.further_than(dense)
        return {
            "dense": dense.value,
            "compressed": compressed.value,
            "se": {"dense": dense.error, "compressed": compressed.error},
            "further": {"value": further, "se": error},
            **used.facts(),
            **self.facts(len(own.dense), used.features),
        }
