"""Distances between sets of images by the features of a network: Frechet and kernel.

    Extractor          images (B, C, H, W) in [-1, 1] -> features (B, D)
    onnx_extractor     any ONNX file that the user names
    inception          InceptionV3 as FID defines it, by torch-fidelity, from a local weights file
    lpips_per_pair     LPIPS between pairs, by torchmetrics, from a local weights file
    Statistics         mean and covariance of features, with n and a hash
    frechet_distance   FID's formula (Heusel et al. 2017); kernel_distance is KID's (Binkowski 2018)
    frechet_error      their standard errors over the sampled images, the reference being given
    kernel_error

The Frechet distance is biased upwards, the more the fewer the images: compare only at equal n.
Nothing is downloaded: a missing weights file is told with the place it is looked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffc.data.batches import run_in_batches
from diffc.errors import InputError, UnavailableError
from diffc_export.disks import utf8_path
from diffc_export.events import Progress, Work

Extractor = Callable[[Tensor], NDArray[np.float64]]

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"


@dataclass(frozen=True)
class Statistics:
    """Of features (N, D): mean (D,), covariance (D, D), n, and the features' hash.

    digest: of the rows as a set, in float32: their order does not count.
    extractor: what made them; two Statistics compare only when it is the same.
    """

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    n: int
    digest: str
    extractor: str


def features_of(extractor: Extractor, images: Tensor, batch: int = 64) -> Work[NDArray[np.float64]]:
    """(N, D) features of images (N, C, H, W), clipped to [-1, 1]."""

    def part(rows: range) -> Work[NDArray[np.float64]]:
        features = extractor(images[rows.start : rows.stop].float().clamp(-1, 1))
        yield Progress(rows.stop, len(images), "extracting features")
        return features

    parts = yield from run_in_batches(len(images), batch, part, "extracting features")
    return np.concatenate(parts)


def statistics(features: NDArray[np.float64], extractor: str) -> Statistics:
    """Mean and covariance; InputError for fewer than two images or values not finite."""
    if len(features) < 2:
        raise InputError(f"a covariance needs at least 2 images; there are {len(features)}")
    if not np.isfinite(features).all():
        raise InputError(f"the features of {extractor} are not all finite")
    rows = features.astype(np.float32)
    digest = hashlib.sha256(rows[np.lexsort(rows.T)].tobytes()).hexdigest()
    covariance = np.atleast_2d(np.cov(features, rowvar=False))
    return Statistics(features.mean(0), covariance, len(features), digest, extractor)


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """|mu_a - mu_b|^2 + tr(A + B - 2 (A B)^1/2).

    tr (A B)^1/2 is taken as the sum of the square roots of the eigenvalues of A^1/2 B A^1/2, which
    is symmetric: no complex root, and singular covariances (n < D) need no padding.
    """
    if a.extractor != b.extractor or a.mean.shape != b.mean.shape:
        raise InputError(f"features of {a.extractor} and of {b.extractor} cannot be compared")
    root = _root(a.covariance)
    inner = np.linalg.eigvalsh(root @ b.covariance @ root)
    cross = np.sqrt(inner.clip(0)).sum()
    gap = a.mean - b.mean
    return float(gap @ gap + np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross)


def _root(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """The symmetric square root of a covariance (D, D)."""
    values, vectors = np.linalg.eigh(covariance)
    root: NDArray[np.float64] = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    return root


def frechet_error(features: NDArray[np.float64], held: Statistics, resamples: int = 0) -> float:
    """The standard error of the distance of features (N, D) to ``held``, by the bootstrap.

    resamples: 0 chooses 200, or 20 where each costs a large decomposition. With X the centred
    rows / sqrt(N - 1), tr (A B)^1/2 is the sum of the singular values of X B^1/2: no covariance of
    a resample is ever made.
    """
    count = resamples or (200 if min(features.shape) <= 256 else 20)
    root, generator = _root(held.covariance), np.random.default_rng(0)
    found = []
    for _ in range(count):
        rows = features[generator.integers(len(features), size=len(features))]
        centred = (rows - rows.mean(0)) / np.sqrt(len(rows) - 1)
        cross = np.linalg.svd(centred @ root, compute_uv=False).sum()
        gap = rows.mean(0) - held.mean
        found.append(gap @ gap + np.square(centred).sum() - 2 * cross)
    return float(np.std(found, ddof=1))


def kernel_distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """The unbiased squared MMD of features (N, D), (M, D) with KID's kernel (x.y / D + 1)^3."""

    def within(x: NDArray[np.float64]) -> float:
        k = _kernel(x, x)
        return float((k.sum() - np.trace(k)) / (len(x) * (len(x) - 1)))

    return within(a) + within(b) - 2 * float(_kernel(a, b).mean())


def kernel_error(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """The standard error of ``kernel_distance`` over the images of ``a`` (N, D), N >= 3.

    The jackknife; leaving one row out of sums that are there already costs nothing.
    """
    n, own, across = len(a), _kernel(a, a), _kernel(a, b)
    rows = own.sum(1) - np.diag(own)
    within = (rows.sum() - 2 * rows) / ((n - 1) * (n - 2))
    between = (across.sum() - across.sum(1)) / ((n - 1) * len(b))
    left_out = within - 2 * between
    return float(np.sqrt((n - 1) / n * np.square(left_out - left_out.mean()).sum()))


def _kernel(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """KID's kernel between all rows of (N, D) and (M, D)."""
    product: NDArray[np.float64] = (x @ y.T / x.shape[1] + 1) ** 3
    return product


def onnx_extractor(path: Path) -> Extractor:
    """The first output of an ONNX model, flattened per image; its one input takes the images.

    Raises InputError when the file is no such model, UnavailableError without ONNX Runtime.
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
        said = ", ".join(f"{i.name} {i.shape}" for i in inputs)
        raise InputError(f"{path} takes {said}; a feature extractor takes images (N, C, H, W)")

    def extract(images: Tensor) -> NDArray[np.float64]:
        try:
            output = session.run(None, {inputs[0].name: images.numpy()})[0]
        except Exception as error:
            raise InputError(
                f"{path.name} takes {inputs[0].shape}, not images of {tuple(images.shape)}"
            ) from error
        return np.asarray(output, dtype=np.float64).reshape(len(images), -1)

    return extract


def inception_weights() -> Path:
    """Where InceptionV3's weights are looked for: torch hub's checkpoints folder."""
    return Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE


def check_inception(path: Path) -> None:
    """Raise UnavailableError where InceptionV3's weights are not at ``path``."""
    if not path.exists():
        raise UnavailableError(
            f"FID and KID need InceptionV3's weights, and {path} does not exist",
            hint=f"put {INCEPTION_FILE} (torch-fidelity's release v0.2.0) there, "
            "or name an ONNX feature extractor",
        )


def inception(weights: Path | None = None) -> Extractor:
    """InceptionV3's 2048 features by torch-fidelity, the port of FID's original network.

    weights: torch-fidelity's file; None: where ``inception_weights`` says.
    """
    path = weights or inception_weights()
    check_inception(path)
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise UnavailableError(
            "FID and KID need torch-fidelity", hint="pip install torch-fidelity"
        ) from error
    network: Any = FeatureExtractorInceptionV3("inception", ["2048"], str(path)).eval()

    @torch.no_grad()
    def extract(images: Tensor) -> NDArray[np.float64]:
        rgb = images.expand(-1, 3, -1, -1)
        pixels = ((rgb + 1) * 127.5).round().to(torch.uint8)
        return np.asarray(network(pixels)[0].double().numpy())

    return extract


def lpips_weights() -> Path:
    """Where AlexNet's weights are; UnavailableError saying where to put them when they are not."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / "alexnet-owt-7be5be79.pth"
    if not path.exists():
        raise UnavailableError(
            f"LPIPS needs AlexNet's weights, and {path} does not exist",
            hint=f"put torchvision's {path.name} there",
        )
    return path


def lpips_per_pair(dense: Tensor, compressed: Tensor) -> list[float]:
    """LPIPS (AlexNet) of each pair (N, C, H, W) in [-1, 1], by torchmetrics, weights from disk."""
    lpips_weights()
    try:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        metric = LearnedPerceptualImagePatchSimilarity(net_type="alex")
    except ImportError as error:
        raise UnavailableError("LPIPS needs torchvision", hint="pip install torchvision") from error
    pairs = zip(_rgb(dense), _rgb(compressed), strict=True)
    with torch.no_grad():
        return [float(metric(a, b)) for a, b in pairs]


def _rgb(images: Tensor) -> Iterator[Tensor]:
    for image in torch.split(images.float().clamp(-1, 1), 1):
        yield image.expand(-1, 3, -1, -1)
