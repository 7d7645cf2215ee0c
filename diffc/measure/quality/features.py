"""Features of images, for distances between sets of them: networks, reference images, statistics.

    Extractor          images (B, C, H, W) in [-1, 1] -> features (B, D)
    onnx_extractor     any ONNX file that the user names
    inception          InceptionV3 as FID defines it, by torch-fidelity, from a local weights file
    ReferenceImages    reference images, whose features are taken once for all metrics
    ReferenceFeatures  the features of the images that others are compared with
    Statistics         mean and covariance of features, with n and a hash
    FeatureDistance    a metric of each side's distance to the reference images

Nothing is downloaded. A missing weights file is reported with the place where diffc looks for it.
Each figure has its standard error and the hashes of what it was taken with: the network's file, the
reference's features.
"""

from __future__ import annotations

import hashlib
import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from diffc.errors import InputError, UnavailableError
from diffc.measure.quality.base import Metric, MetricFigure, hub_folder
from diffc_export.events import Progress, Work
from diffc_runtime.files import file_digest, utf8_path
from diffc_runtime.json_types import JsonDict, JsonObject

if TYPE_CHECKING:
    from torch import Tensor

    from diffc.measure.samples import SamplePair
    from diffc.recipe import QualitySection

Features: TypeAlias = NDArray[np.float64]
"""(N, D), one row for each image."""
Extractor: TypeAlias = "Callable[[Tensor], Features]"
INCEPTION = "inception"
INCEPTION_NAME = "InceptionV3"
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
_SIDES = ("dense", "compressed")


@dataclass(frozen=True)
class FeatureNetwork:
    """A network whose output is compared.

    Attributes:
        name: Its name in reports.
        extract: Images (B, C, H, W) in [-1, 1] -> features (B, D).
        digest: The sha256 of its file.
    """

    name: str
    extract: Extractor
    digest: str


def feature_network(name: str) -> FeatureNetwork:
    """The network that ``--features`` names.

    Args:
        name: ``inception``, or the path of an ONNX file.

    Raises:
        InputError: The file is not a network of images.
        UnavailableError: Weights or a package are not on this machine.
    """
    if name == INCEPTION:
        return FeatureNetwork(INCEPTION_NAME, inception(), file_digest(inception_weights()))
    path = Path(name)
    return FeatureNetwork(path.name, onnx_extractor(path), file_digest(path))


@dataclass(frozen=True)
class Statistics:
    """The statistics of features (N, D).

    Attributes:
        mean: (D,).
        covariance: (D, D).
        n: How many images.
        digest: The hash of the rows as a set, in float32: their order does not count.
        extractor: The network's name. Two statistics compare only when it is the same.
    """

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    n: int
    digest: str
    extractor: str


def statistics(features: Features, extractor: str) -> Statistics:
    """Mean and covariance of features (N, D).

    Raises:
        InputError: There are fewer than two images, or a value is not finite.
    """
    if len(features) < 2:
        raise InputError(f"a covariance needs at least 2 images; there are {len(features)}")
    if not np.isfinite(features).all():
        raise InputError(f"the features of {extractor} are not all finite")
    rows = features.astype(np.float32)
    digest = hashlib.sha256(rows[np.lexsort(rows.T)].tobytes()).hexdigest()
    covariance = np.atleast_2d(np.cov(features, rowvar=False))
    return Statistics(features.mean(0), covariance, len(features), digest, extractor)


@dataclass(frozen=True)
class ReferenceFeatures:
    """The features of the images that others are compared with.

    Attributes:
        features: (M, D).
        name: The network's name in reports.
        digest: The hash of the network.
        of: What the images are, in words, where they are none that the user names.
    """

    features: Features
    name: str
    digest: str
    of: str = ""

    @cached_property
    def statistics(self) -> Statistics:
        """The mean and covariance. Raises InputError for fewer than two images."""
        return statistics(self.features, self.name)

    def facts(self) -> JsonDict:
        """What a figure that was taken with them says of them."""
        used = self.statistics
        reference = {"n": used.n, "sha256": used.digest, **({"of": self.of} if self.of else {})}
        return {
            "features": self.name,
            "features_sha256": self.digest,
            "reference": reference,
        }


def features_of(extractor: Extractor, images: Tensor, batch: int = 64) -> Work[Features]:
    """(N, D) features of images (N, C, H, W), which are clipped to [-1, 1] first."""
    from diffc.data.batches import run_in_batches

    def part(rows: range) -> Work[Features]:
        features = extractor(images[rows.start : rows.stop].float().clamp(-1, 1))
        yield Progress(rows.stop, len(images), "extracting features")
        return features

    parts = yield from run_in_batches(len(images), batch, part, "extracting features")
    return np.concatenate(parts)


class ReferenceImages:
    """Reference images, and the features that metrics of one run share.

    Attributes:
        images: (M, C, H, W) in [-1, 1].
    """

    def __init__(self, images: Tensor, network: str) -> None:
        """Take images and the name of a network, as ``feature_network`` has it."""
        self.images = images
        self._network = network
        self._taken: ReferenceFeatures | None = None
        self._sides: tuple[SamplePair, dict[str, Features]] | None = None

    @cached_property
    def network(self) -> FeatureNetwork:
        """The network that the features are taken with. Raises as ``feature_network`` does."""
        return feature_network(self._network)

    def take_features(self) -> Work[ReferenceFeatures]:
        """The reference images' features, taken once.

        Raises:
            InputError: The network does not take these images, or their features have no
                statistics.
        """
        if self._taken is None:
            network = self.network
            features = yield from features_of(network.extract, self.images)
            taken = ReferenceFeatures(features, network.name, network.digest)
            assert taken.statistics.n == len(features)
            self._taken = taken
        return self._taken

    def of_sides(self, pair: SamplePair) -> Work[dict[str, Features]]:
        """Both sides' features, taken once for all metrics of the pair."""
        if self._sides is None or self._sides[0] is not pair:
            extract = self.network.extract
            images = zip(_SIDES, (pair.dense, pair.compressed), strict=True)
            sides = {}
            for side, samples in images:
                sides[side] = yield from features_of(extract, samples)
            self._sides = pair, sides
        return self._sides[1]


class FeatureDistance(Metric):
    """The distance of each side's samples to the reference images, on a network's features.

    A subclass defines ``distance`` and ``error``, its standard error over the sampled images.
    """

    label_on_inception: ClassVar[str]
    """What tables call it on InceptionV3's features."""

    better = "lower"
    digits = 4
    note = "distances: ± one standard error; fewer images give a larger Frechet distance"
    uses_reference = True
    channels = (1, 3)
    subject = "distances to images are"
    limits = (0.0, math.inf)
    depends_on = (*Metric.depends_on, "features", "features_sha256", "reference")

    @abstractmethod
    def distance(self, features: Features, reference: ReferenceFeatures) -> float:
        """Return how far the features (N, D) of one side's images are from the reference's."""

    @abstractmethod
    def error(self, features: Features, reference: ReferenceFeatures) -> float:
        """Return the standard error of that distance."""

    def is_wanted(self, options: QualitySection) -> bool:
        """Reference images ask for it too."""
        return options.reference is not None or super().is_wanted(options)

    def check(self, options: QualitySection) -> None:
        """Also refuse where InceptionV3's weights are needed and not on this machine."""
        super().check(options)
        if options.features == INCEPTION:
            check_inception(inception_weights())

    def prepare(self, reference: ReferenceImages | None) -> Work[None]:
        """Take the reference images' features."""
        assert reference is not None
        yield from reference.take_features()

    def measure(
        self, pair: SamplePair, reference: ReferenceImages | None
    ) -> Work[MetricFigure | str]:
        """Each side's distance and standard error, and what they were taken with."""
        assert reference is not None
        used = yield from reference.take_features()
        sides = yield from reference.of_sides(pair)
        return {
            **{side: self.distance(rows, used) for side, rows in sides.items()},
            "se": {side: self.error(rows, used) for side, rows in sides.items()},
            **used.facts(),
        }

    def title(self, figure: JsonObject) -> str:
        """FID or KID on InceptionV3's features, else the distance's name and the network's."""
        network = figure.get("features")
        if network == INCEPTION_NAME:
            return self.label_on_inception
        return f"{self.label} on {network}"

    def as_text(self, value: float | None) -> str:
        """Four significant digits."""
        return four_digits(value)


def four_digits(value: float | None) -> str:
    """A value of a distance as tables show it; a dash for what is not a finite number."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.4g}"


def onnx_extractor(path: Path) -> Extractor:
    """The first output of an ONNX model, flattened per image; its one input takes the images.

    Raises:
        InputError: The file is not such a model.
        UnavailableError: ONNX Runtime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UnavailableError(
            "features of an ONNX model need onnxruntime", hint="pip install 'diffc[cpu]'"
        ) from error
    if not path.is_file():
        raise InputError(f"there is no feature extractor {path}", hint="--features takes ONNX")
    try:
        session = onnxruntime.InferenceSession(utf8_path(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises a class of its own for each cause
        raise InputError(f"{path} cannot be read as an ONNX model: {error}") from error
    inputs = session.get_inputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        takes = ", ".join(f"{i.name} {i.shape}" for i in inputs)
        raise InputError(f"{path} takes {takes}; a feature extractor takes images (N, C, H, W)")

    def extract(images: Tensor) -> Features:
        try:
            output = session.run(None, {inputs[0].name: images.numpy()})[0]
        except Exception as error:
            raise InputError(
                f"{path.name} takes {inputs[0].shape}, not images of {tuple(images.shape)}"
            ) from error
        return np.asarray(output, dtype=np.float64).reshape(len(images), -1)

    return extract


def inception_weights() -> Path:
    """The place where diffc looks for InceptionV3's weights: torch hub's checkpoints folder."""
    return hub_folder() / "checkpoints" / INCEPTION_FILE


def check_inception(path: Path) -> None:
    """Refuse where InceptionV3's weights are not at ``path``.

    Raises:
        UnavailableError: The hint says where to put them.
    """
    if not path.exists():
        raise UnavailableError(
            f"FID and KID need InceptionV3's weights, and {path} does not exist",
            hint=f"put {INCEPTION_FILE} (torch-fidelity's release v0.2.0) there, "
            "or name an ONNX feature extractor",
        )


def inception(weights: Path | None = None) -> Extractor:
    """InceptionV3's 2048 features by torch-fidelity, the port of FID's original network.

    Args:
        weights: torch-fidelity's file; None for the place that ``inception_weights`` gives.

    Raises:
        UnavailableError: The file or torch-fidelity is not on this machine.
    """
    import torch

    path = weights or inception_weights()
    check_inception(path)
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise UnavailableError(
            "FID and KID need torch-fidelity", hint="pip install torch-fidelity"
        ) from error
    network = FeatureExtractorInceptionV3("inception", ["2048"], str(path)).eval()

    @torch.no_grad()
    def extract(images: Tensor) -> Features:
        rgb = images.expand(-1, 3, -1, -1)
        pixels = ((rgb + 1) * 127.5).round().to(torch.uint8)
        return np.asarray(network(pixels)[0].double().numpy())

    return extract
