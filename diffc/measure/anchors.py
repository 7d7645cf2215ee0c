"""Anchors: samples of the dense model itself, judged as the compressed model's are.

They give the scale of a figure of quality. A compressed image that costs 30 dense steps is worth
its pruning only where the dense model's image of 30 steps is further from the dense model's best.

    same-time     the dense model with as many steps as fit in the time of a compressed image
    fewer-steps   the dense model with nine steps of ten
    other-seed    the dense model's images of other noise: how far apart two good images are

Every SSIM is to the images that the compressed model's are compared with: the dense model's from
the same noise, with all steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from diffc.measure.results import TargetResult
from diffc_export.events import Work
from diffc_runtime.loop import Loop

if TYPE_CHECKING:
    from torch import Tensor

    from diffc.data.synthetic import Conditioning
    from diffc.models.denoiser import Denoiser

AnchorKind: TypeAlias = Literal["same-time", "fewer-steps", "other-seed"]
FEWER = 0.9
"""The share of the steps that the second anchor has."""
MOST_IMAGES, MOST_OF_FEWER = 16, 8
"""Images of the first and of the second anchor, at most: sampling them takes time."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


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


def steps_in_time(image: TargetResult, steps: int) -> int | None:
    """How many steps the dense model takes in the time of a compressed image of ``steps`` steps.

    Both times are of one measurement, in turn. What an image costs beside its steps (the decoder)
    is the same on both sides and buys no step, so it is left out of both.

    Args:
        image: The times of whole images.
        steps: Of the compressed image; the timed loop may have had another number.

    Returns:
        The whole steps; None where no speed-up is shown.
    """
    dense = image.dense.latency_ms
    if dense is None or image.speedup is None or not image.speedup.is_shown:
        return None
    beside = float(image.details.get("decode_ms") or 0.0)
    small = dense.p50 / image.speedup.median
    if small >= dense.p50 or small <= beside:
        return None
    return int(steps * (small - beside) / (dense.p50 - beside) + 1e-9)


def fewer_steps(steps: int) -> int | None:
    """Nine tenths of the steps; None where that is not fewer."""
    fewer = round(steps * FEWER)
    return fewer if 0 < fewer < steps else None


def anchor(kind: AnchorKind, steps: int, values: Sequence[float]) -> Anchor:
    """The anchor of its images' SSIM."""
    return Anchor(kind=kind, steps=steps, n=len(values), ssim=estimated(values), worst=min(values))


def estimated(values: Sequence[float]) -> Estimated:
    """The mean of values and its interval."""
    from diffc.measure.statistics import estimate

    mean = estimate(values)
    return Estimated(mean=mean.mean, ci95=mean.ci95)


def other_seed(images: Tensor) -> list[float]:
    """SSIM of each image (N, C, H, W) to the next one, which came from other noise."""
    from diffc.measure.quality.ssim import METRIC

    return METRIC.of_pairs(images, images.roll(-1, 0))


@dataclass(frozen=True)
class JudgedSamples:
    """The samples that the compressed model was judged by.

    Attributes:
        dense: The dense model's images with all steps, decoded, (N, C, H, W).
        each: The SSIM of the compressed model's images to them, (N,).
        loop: Of the images of ``dense``.
        seed: Of the noise.
        given: The conditions, as in ``diffc.measure.samples.sample_pair``.
    """

    dense: Tensor
    each: Sequence[float]
    loop: Loop
    seed: int
    given: Conditioning


@dataclass(frozen=True)
class Wanted:
    """Which anchors are measured.

    Attributes:
        target: The target that they are of.
        same_time: The dense steps in the time of a compressed image; None to leave that one out.
        scale: Measure the two that no target's time decides, too.
    """

    target: str
    same_time: int | None
    scale: bool


def measure_anchors(
    model: Denoiser,
    judged: JudgedSamples,
    wanted: Wanted,
    decode: Callable[[Tensor], Work[Tensor]],
) -> Work[Anchors]:
    """Sample the dense model with fewer steps, and judge it as the compressed model was judged.

    Args:
        model: The dense model.
        judged: What it is compared with.
        wanted: The anchors.
        decode: From the denoiser's samples to images.
    """
    from diffc.measure.quality.ssim import METRIC
    from diffc.measure.samples import ModelLoop, sample_images

    def values(steps: int, most: int) -> Work[list[float]]:
        n = min(most, len(judged.dense))
        fewer = ModelLoop(model, replace(judged.loop, steps=steps))
        samples = yield from sample_images(fewer, n, judged.given, seed=judged.seed)
        images = yield from decode(samples)
        return METRIC.of_pairs(judged.dense[:n], images)

    all_steps = judged.loop.steps or 0
    result = Anchors(target=wanted.target, steps=all_steps)
    if wanted.same_time is not None:
        each = yield from values(wanted.same_time, MOST_IMAGES)
        result.rows.append(anchor("same-time", wanted.same_time, each))
        differences = [ours - theirs for ours, theirs in zip(judged.each, each, strict=False)]
        result.ahead = estimated(differences)
    fewer = fewer_steps(all_steps)
    if wanted.scale and fewer is not None:
        each = yield from values(fewer, MOST_OF_FEWER)
        result.rows.append(anchor("fewer-steps", fewer, each))
    if wanted.scale and len(judged.dense) > 1:
        result.rows.append(anchor("other-seed", all_steps, other_seed(judged.dense)))
    return result
