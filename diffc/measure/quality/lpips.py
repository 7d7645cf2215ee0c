"""LPIPS (AlexNet) between pairs of images, by torchmetrics, with a weights file from disk.

Nothing is downloaded. A missing weights file is reported with the place where diffc looks for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from diffc.errors import UnavailableError
from diffc.measure.quality.base import PairMetric, hub_folder
from diffc_runtime.json_types import JsonObject

if TYPE_CHECKING:
    from torch import Tensor

    from diffc.recipe import QualitySection

WEIGHTS = "alexnet-owt-7be5be79.pth"


class Lpips(PairMetric):
    """The learned perceptual distance of each pair; 0 for identical images."""

    name = "lpips"
    label = "LPIPS"
    better = "lower"
    order = 30
    channels = (1, 3)
    least_side = 31  # AlexNet's strides leave nothing of a smaller picture
    packages = ("torchmetrics",)
    modules = ("torchvision",)
    limits = (0.0, math.inf)
    possible = (0.0, math.inf)
    facts: ClassVar[JsonObject] = {"network": "AlexNet"}

    def is_wanted(self, options: QualitySection) -> bool:
        """``--lpips`` asks for it as ``--metric lpips`` does."""
        return options.lpips or super().is_wanted(options)

    def check(self, options: QualitySection) -> None:
        """Also refuse where AlexNet's weights are not on this machine."""
        find_weights()
        super().check(options)

    def values(self, dense: Tensor, compressed: Tensor) -> list[float]:
        """One distance for each pair."""
        import torch

        find_weights()
        try:
            from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

            network = LearnedPerceptualImagePatchSimilarity(net_type="alex")
        except ImportError as error:
            raise UnavailableError(
                "LPIPS needs torchvision", hint="pip install torchvision"
            ) from error
        pairs = zip(_as_rgb(dense), _as_rgb(compressed), strict=True)
        with torch.no_grad():
            return [float(network(a, b)) for a, b in pairs]


def find_weights() -> Path:
    """The file of AlexNet's weights.

    Raises:
        UnavailableError: The file is not there. The hint says where to put it.
    """
    path = hub_folder() / "checkpoints" / WEIGHTS
    if not path.exists():
        raise UnavailableError(
            f"LPIPS needs AlexNet's weights, and {path} does not exist",
            hint=f"put torchvision's {path.name} there",
        )
    return path


def _as_rgb(images: Tensor) -> Iterator[Tensor]:
    """Each image (1, 3, H, W)."""
    for i in range(len(images)):
        yield images[i : i + 1].expand(-1, 3, -1, -1)


METRIC = Lpips()
