"""The noise error of a model of Fashion-MNIST on test images that nothing was fitted to."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from bench.quality.judge import read_split
from diffc.models.denoiser import Denoiser

FASHION = Path("/usr/share/datasets/fashion-mnist")
IMAGES = 256


class HeldOut:
    """Fashion-MNIST's test images, each noised to one timestep, evenly over all of them."""

    def __init__(self, denoiser: Denoiser, folder: Path = FASHION) -> None:
        """Read the images.

        Args:
            denoiser: The dense model, whose noising process is used.
            folder: Where Fashion-MNIST's test files lie (``bench.quality.judge.read_split``).
        """
        self._denoiser = denoiser
        test = read_split(folder, "test", IMAGES)
        names = {spec.name for spec in denoiser.specs}
        self._images = test.sample
        self._conditions = {k: rows for k, rows in test.conditions.items() if k in names}

    @torch.no_grad()
    def error(self, model: nn.Module) -> float:
        """The mean squared error of the noise that ``model``, dense or cut, predicts."""
        generator = torch.Generator().manual_seed(1)
        noise = torch.randn(self._images.shape, generator=generator)
        process = self._denoiser.process
        t = ((torch.arange(IMAGES) + 0.5) / IMAGES * len(process)).long()
        total = 0.0
        for rows in torch.arange(IMAGES).split(64):
            x = process.noised(self._images[rows], noise[rows], t[rows])
            conditions = {name: value[rows] for name, value in self._conditions.items()}
            inputs = {"sample": x, "timestep": t[rows], **conditions}
            output = self._denoiser.with_model(model).call(inputs)
            total += float((output - noise[rows]).square().mean()) * len(rows)
        return total / IMAGES
