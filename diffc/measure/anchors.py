"""Anchors: samples of the dense model itself, as reports of version 2 have them.

Newer reports have a frontier in their place (diffc/measure/frontier/).

    same-time     the dense model with as many steps as fit in the time of a compressed image
    fewer-steps   the dense model with nine steps of ten
    other-seed    the dense model's images of other noise: how far apart two good images are

Every SSIM is to the images that the compressed model's are compared with: the dense model's from
the same noise, with all steps.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

AnchorKind: TypeAlias = Literal["same-time", "fewer-steps", "other-seed"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", defer_build=True)


class Estimated(_Part):
    """A mean over images and its 95 % interval, which one image has not."""

    mean: float
    ci95: tuple[float, float] | None = None


class Anchor(_Part):
    """One kind of the dense model's own samples.

    Attributes:
        kind: Which.
        steps: Of the sampler.
        n: The number of images.
        ssim: To the dense model's images with all steps.
        worst: The lowest SSIM of one image.
    """

    kind: AnchorKind
    steps: int
    n: int
    ssim: Estimated
    worst: float


class Anchors(_Part):
    """The anchors of one target's figures.

    Attributes:
        target: The target whose times say how many dense steps a compressed image costs.
        steps: Of the images that all others are compared with.
        rows: The anchors.
        ahead: By how much the compressed model's SSIM is above that of ``same-time``, image by
            image; below 0 where fewer steps alone are better.
        absent: Why there are none, or why one is missing.
    """

    target: str
    steps: int
    rows: list[Anchor] = Field(default_factory=list)
    ahead: Estimated | None = None
    absent: str | None = None

    def row(self, kind: AnchorKind) -> Anchor | None:
        """The anchor of a kind; None where it was not measured."""
        return next((row for row in self.rows if row.kind == kind), None)
