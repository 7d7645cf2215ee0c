"""The quality study's inputs and its judge: data, a small classifier, and two figures.

    read_split   train or test images with labels: class folders, Fashion-MNIST's files, or an .npz
    Classifier   a small convolutional network, trained by ``fit``; distances are on its features
    Judge        samples of a model from fixed noise -> Frechet distance, SSIM to the dense model

The Frechet distance of n samples is biased upwards; every row has the same n and the same noise.
Its standard error is that of 200 bootstrap resamples of the samples.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from diffc.data.clean import CleanSet
from diffc.data.images import read_images
from diffc.data.randomness import keyed_generator, keyed_noise
from diffc.data.sampling import deterministic_loop, sample
from diffc.measure.quality.features import features_of
from diffc.measure.quality.features import statistics as feature_statistics
from diffc.measure.quality.frechet import frechet_distance
from diffc.measure.quality.ssim import METRIC as SSIM
from diffc.measure.samples import EVALUATION
from diffc_export.events import drain

Tick = Callable[[], None]
RESAMPLES = 200


def read_split(source: Path, split: str, limit: int) -> CleanSet:
    """At most ``limit`` images of 32x32 with ``class_labels``; split: train or test.

    source: a folder with train/CLASS and test/CLASS images, or with Fashion-MNIST's ``*-ubyte.gz``
    files, or an .npz with uint8 arrays train, train_labels, test and test_labels, (N, 32, 32, C).
    """
    if source.suffix == ".npz":
        with np.load(source, allow_pickle=False) as arrays:
            return from_pixels(arrays[split].transpose(0, 3, 1, 2), arrays[f"{split}_labels"],
                               limit, split)  # fmt: skip
    prefix = {"train": "train", "test": "t10k"}[split]
    packed = source / f"{prefix}-images-idx3-ubyte.gz"
    if not packed.exists():
        return read_images(source / split, (3, 32, 32), limit=limit, classes=1000)[0]
    pixels = np.frombuffer(gzip.decompress(packed.read_bytes())[16:], np.uint8)
    packed_labels = source / f"{prefix}-labels-idx1-ubyte.gz"
    labels = np.frombuffer(gzip.decompress(packed_labels.read_bytes())[8:], np.uint8)
    images = np.pad(pixels.reshape(-1, 1, 28, 28), ((0, 0), (0, 0), (2, 2), (2, 2)))
    return from_pixels(images, labels, limit, split)


def from_pixels(pixels, labels, limit: int, split: str) -> CleanSet:
    """A subset in an order of its own; pixels: uint8 (N, C, H, W)."""
    order = np.random.default_rng(0).permutation(len(labels))[:limit]
    images = torch.from_numpy(pixels[order].astype(np.float32) / 127.5 - 1)
    return CleanSet(images, {"class_labels": torch.tensor(labels[order].astype(np.int64))}, split)


class Classifier(nn.Module):
    """``features`` (B, 64) are what the distance is taken on."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        widths, layers = (channels, 32, 64, 64), []
        for a, b in pairwise(widths):
            layers += [nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2)]
        self.body, self.head = nn.Sequential(*layers), nn.Linear(widths[-1], classes)

    def features(self, images: Tensor) -> Tensor:
        return self.body(images).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def fit(network: Classifier, train: CleanSet, epochs: int, device, tick: Tick) -> None:
    """Cross-entropy with flips, AdamW, cosine."""
    batch = 128
    steps = max(1, epochs * len(train) // batch)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    network.train()
    for step in range(steps):
        tick()
        images, conditions = train.draw(batch, keyed_generator(0, step))
        flip = torch.rand(batch, 1, 1, 1, generator=keyed_generator(1, step)) < 0.5
        images = torch.where(flip, images.flip(3), images).to(device)
        loss = nn.functional.cross_entropy(network(images), conditions["class_labels"].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.eval()


@torch.no_grad()
def accuracy(network: Classifier, test: CleanSet, device) -> float:
    """The share of test images whose label is found."""
    network.eval()
    said = torch.cat([network(x.to(device)).argmax(1).cpu() for x in test.sample.split(256)])
    return float((said == test.conditions["class_labels"]).float().mean())


class Judge:
    """Samples of a model from fixed noise, and its two figures.

    steps: of the deterministic sampler that the model's own scheduler config gives.
    """

    def __init__(self, network: Classifier, test: CleanSet, scheduler_config, steps: int, device,
                 tick: Tick) -> None:  # fmt: skip
        self.network, self.device, self.tick = network, device, tick
        self.loop = deterministic_loop(scheduler_config, steps)
        self.shape = test.sample.shape[1:]
        self.real = feature_statistics(self.features(test.sample), "classifier")

    def facts(self) -> dict:
        """Sampler, steps, spacing, seed, and the reference statistics' size and hash."""
        statistics = {"n": self.real.n, "sha256": self.real.digest}
        return {**self.loop.info.as_dict(), "seed": 0, "test_statistics": statistics}

    def features(self, images: Tensor):
        """(N, 64) float64."""

        @torch.no_grad()
        def extract(x: Tensor):
            return self.network.features(x.to(self.device)).double().cpu().numpy()

        return drain(features_of(extract, images, batch=256))

    def samples(self, model: nn.Module, n: int, batch: int = 32) -> Tensor:
        """(n, C, H, W) on the CPU; image i starts from the noise keyed by (0, i)."""
        made, model = [], model.to(self.device).eval()
        for start in range(0, n, batch):
            self.tick()
            index = range(start, min(start + batch, n))
            noise = keyed_noise(((0, EVALUATION, i) for i in index), self.shape)
            call = lambda x, t: model(x, t, return_dict=False)[0]  # noqa: E731
            made.append(sample(call, self.loop, noise.to(self.device)).cpu())
        return torch.cat(made)

    def distances(self, images: Tensor) -> tuple[float, np.ndarray]:
        """The Frechet distance, and those of the resamples, which are the same for equal n."""
        features = self.features(images)

        def distance(rows) -> float:
            return frechet_distance(feature_statistics(rows, "classifier"), self.real)

        random = np.random.default_rng(0)
        draws = [distance(features[random.integers(len(features), size=len(features))])
                 for _ in range(RESAMPLES)]  # fmt: skip
        return distance(features), np.array(draws)

    def frechet(self, images: Tensor) -> dict:
        """Mean and standard error over bootstrap resamples."""
        value, draws = self.distances(images)
        return {"value": value, "se": float(np.std(draws, ddof=1)), "n": len(images)}

    def figures(self, images: Tensor, dense: Tensor | None) -> dict:
        """Of samples, against the dense model's from the same noise."""
        found: dict = {"frechet": self.frechet(images)}
        if dense is not None:
            ssim = SSIM.figure(SSIM.of_pairs(dense[: len(images)], images))
            found |= {"ssim": {**ssim, "n": len(images)}}
        return found
