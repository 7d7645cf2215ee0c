"""Samples of the dense and the compressed model from the same noise.

    SamplePair     the images, with both loops and the seed, which every figure carries
    ModelLoop      a model and the loop that samples it
    sample_pair    images from the same noise through both models, each by its own loop
    sample_images  one model's images from that noise, by any loop
    consistency    the mean SSIM of a few pairs, for a curve over training

Metrics (quality/) compare the images as they would be saved: clipped to [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from diffc.data.batches import run_in_batches
from diffc.data.precision import device_of
from diffc.data.randomness import ImageNoise, keyed_noise
from diffc.data.sampling import (
    Draw,
    ModelCall,
    SamplerInfo,
    TorchLoop,
    denoise,
    deterministic_loop,
    torch_loop,
)
from diffc.data.sharding import is_sharded
from diffc.data.synthetic import UNCONDITIONAL, Conditioning, condition_rows, guided_call
from diffc.measure.quality.own_distance import OwnFeatures
from diffc.measure.quality.ssim import METRIC as SSIM
from diffc.measure.statistics import estimate
from diffc.models.denoiser import Denoiser
from diffc_export.events import Progress, Work, drain
from diffc_runtime.json_types import JsonDict
from diffc_runtime.loop import Loop

EVALUATION = 7  # the stream of keys that a curve's noise is drawn from, apart from training's
SAMPLED_AT_ONCE = 16
"""Images that one call of a network works on, where memory has room."""


@dataclass(frozen=True)
class SamplePair:
    """Images from the same noise, row by row.

    Attributes:
        dense: The dense model's, (N, C, H, W).
        compressed: The compressed model's, of the same shape.
        sampler: How the compressed model's were made.
        reference: How the dense model's were made.
        seed: Image i starts from the noise that the serving runtime gives image i of this seed.
        own: Features of both by the dense model itself; None where none were taken.
    """

    dense: Tensor
    compressed: Tensor
    sampler: SamplerInfo
    reference: SamplerInfo
    seed: int
    own: OwnFeatures | None = None

    def origin(self) -> JsonDict:
        """How the samples were made: both loops, seeds, guidance, n."""
        ours, theirs = self.sampler, self.reference
        return {
            **ours.as_dict(),
            "guidance": ours.loop.guidance or 1.0,
            "reference_loop": str(theirs.loop),
            "reference_spacing": theirs.spacing,
            "seeds": [self.seed],
            "n": len(self.dense),
        }


@dataclass(frozen=True)
class ModelLoop:
    """A model and the loop that samples it.

    Attributes:
        denoiser: The model. Its scheduler's config is its own: a compressed model may predict
            something else than the dense one.
        loop: Sampler, steps and guidance, settled; there is no guidance without null conditions.
    """

    denoiser: Denoiser
    loop: Loop

    def under(self, given: Conditioning) -> TorchLoop:
        """What is done under these conditions; a loop without guidance has none (None)."""
        scale = self.loop.guidance if given.null and self.loop.guidance != 1 else None
        return torch_loop(self.denoiser.scheduler, replace(self.loop, guidance=scale))


def sample_pair(
    dense: ModelLoop,
    compressed: ModelLoop,
    n: int,
    given: Conditioning = UNCONDITIONAL,
    *,
    seed: int = 0,
    batch: int = SAMPLED_AT_ONCE,
) -> Work[SamplePair]:
    """Make images from the same noise through both models.

    Args:
        dense: The dense model and the reference loop.
        compressed: The compressed model of the same class, and its loop.
        n: How many images of each.
        given: The conditions, as in ``diffc.data.synthetic.synthesize``; guidance is the loops'.
        seed: Of noise and labels.
        batch: How many images at a time; halved where memory has no room.
    """
    sides = (dense, compressed)
    pair = yield from _sample_sides(sides, n, given, seed=seed, batch=batch)
    theirs, ours = (side.under(given).info for side in sides)
    return SamplePair(pair[0], pair[1], ours, theirs, seed)


def sample_images(
    model: ModelLoop,
    n: int,
    given: Conditioning = UNCONDITIONAL,
    *,
    seed: int = 0,
    batch: int = SAMPLED_AT_ONCE,
) -> Work[Tensor]:
    """Make one model's images (n, C, H, W) from the noise that ``sample_pair`` begins with.

    Args:
        model: The model and its loop.
        n: How many images.
        given: See ``sample_pair``, as for the next two.
        seed: Of noise and labels.
        batch: How many images at a time.
    """
    return (yield from _sample_sides((model,), n, given, seed=seed, batch=batch))[0]


def _sample_sides(
    sides: Sequence[ModelLoop], n: int, given: Conditioning, *, seed: int, batch: int
) -> Work[list[Tensor]]:
    """Each side's samples from the same noise, in float32."""
    first, loops = sides[0].denoiser, [side.under(given) for side in sides]
    count = len(sides)

    def part(index: range) -> Work[list[Tensor]]:
        rows = condition_rows(index, first.specs, given.rows, first.class_count, seed)
        images: list[Tensor] = []
        for side, loop in zip(sides, loops, strict=True):
            done = count * index.start + len(images) * len(index)
            guided = Conditioning(rows, given.null, loop.loop.guidance or 1.0)
            call = guided_call(side.denoiser, guided, torch.float32)
            noise = ImageNoise(seed, index, first.sample_shape)
            start = noise.first.to(device_of(side.denoiser.model))
            progress = _Progress(done, count * n, loop.calls(first.sample_shape))
            images.append((yield from _sample(call, loop, start, progress, noise.draw)))
        return images

    parts = yield from run_in_batches(n, batch, part, "taking samples")
    return [torch.cat(side) for side in zip(*parts, strict=True)]


def consistency(
    dense: Denoiser,
    conditions: Mapping[str, Tensor],
    *,
    n: int = 8,
    steps: int = 20,
    decode: Callable[[Tensor], Work[Tensor]] | None = None,
) -> Callable[[nn.Module], float]:
    """Return a function from a model to its mean SSIM to ``dense``, with seed 0.

    It takes few images and steps, to watch a training run by; ``measure_quality`` gives figures to
    report. The dense images are made once, on the first call.

    Args:
        dense: The dense model.
        conditions: Rows of conditions, of which image i takes row i modulo their number.
        n: How many images.
        steps: Of the deterministic sampler.
        decode: From the denoiser's samples to images, for latent models.
    """
    loop = deterministic_loop(dense.scheduler, steps)
    rows = condition_rows(range(n), dense.specs, conditions, dense.class_count, 0)
    noise = keyed_noise(((0, EVALUATION, i) for i in range(n)), dense.sample_shape)
    dense_images: list[Tensor] = []

    def images(model: nn.Module) -> Tensor:
        def part(of: range) -> Work[Tensor]:
            given = Conditioning({name: v[of.start : of.stop] for name, v in rows.items()})
            call = guided_call(dense.with_model(model), given, torch.float32)
            start = noise[of.start : of.stop].to(device_of(model))
            progress = _Progress(of.start, n, loop.calls(dense.sample_shape))
            return _sample(call, loop, start, progress)

        with torch.compiler.set_stance("force_eager"):  # a batch of another size than training's
            doing, together = "taking samples for the curve of quality", is_sharded(model)
            parts = drain(run_in_batches(n, n, part, doing, together=together))
        samples = torch.cat(parts)
        return samples if decode is None else drain(decode(samples))

    def ssim(model: nn.Module) -> float:
        if not dense_images:
            dense_images.append(images(dense.model))
        return estimate(SSIM.of_pairs(dense_images[0], images(model))).mean

    return ssim


@dataclass(frozen=True)
class _Progress:
    """How many images there were before, of how many, and the calls that one takes."""

    done: int
    total: int
    calls: int

    def after(self, calls: int, images: int) -> Progress:
        done = self.done + images * calls / self.calls
        return Progress(done, self.total, "sampling from the same noise")


def _sample(
    call: ModelCall, loop: TorchLoop, noise: Tensor, progress: _Progress, draw: Draw | None = None
) -> Work[Tensor]:
    x = noise
    for i, x in enumerate(denoise(call, loop, noise, draw)):
        yield progress.after(i + 1, len(x))
    return x.float().cpu()
