"""``quality``: dense against compressed samples from the same noise."""

from __future__ import annotations

from pydantic import Field

from diffc.recipe.sections.base import RecipeSection
from diffc.recipe.words import PathText, Seed, Words


class QualitySection(RecipeSection):
    """``quality``: dense against compressed samples from the same noise.

    Attributes:
        images: how many pairs of images are sampled.
        seed: seed of the noise.
        metrics: more metrics to measure, by name (diffc/measure/quality).
        lpips: True measures LPIPS between the pairs too, as ``lpips`` in ``metrics`` does.
        reference: images (as ``data.source`` names them) to which the Frechet and the kernel
            distance of both sides are measured; None measures neither.
        features: the features of these distances: ``inception`` (FID and KID), or an ONNX file.
        reference_images: the most reference images that are used.
    """

    images: int = Field(default=32, ge=1)
    seed: Seed = 0
    metrics: Words = ()
    lpips: bool = False
    reference: PathText | None = None
    features: PathText = "inception"
    reference_images: int = Field(default=10_000, ge=2)
