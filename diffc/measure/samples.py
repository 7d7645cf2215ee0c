"""Samples of the dense and the compressed model from the same noise.

    SamplePair   the images, with sampler, steps, spacing and seed, which every figure carries
    sample_pair  images from the same noise through both, by the same deterministic sampler
    sample_dense the dense model's images alone, from the same noise, with other steps
    consistency  the mean SSIM of a few such pairs, for a curve over training

Metrics (quality/) compare the images as they would be saved: clipped to [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffc.data.batches import run_in_batches
from diffc.data.precision import device_of
from diffc.data.randomness import image_noise, keyed_noise
from diffc.data.sampling import (
    ModelCall,
    SamplerInfo,
    TorchLoop,
    denoise,
    deterministic_loop,
)
from diffc.data.synthetic import UNCONDITIONAL, Conditioning, condition_rows, guided_call
from diffc.measure.quality.ssim import METRIC as SSIM
from diffc.measure.statistics import estimate
from diffc.models.denoiser import Denoiser
from diffc_export.events import Progress, Work, drain
from diffc_runtime.json_types import JsonDict

EVALUATION = 7  # the stream of keys that a curve's noise is drawn from, apart from training's


@dataclass(frozen=True)
class SamplePair:
    """Images from the same noise, row by row.

    Attributes:
        dense: The dense model's, (N, C, H, W).
        compressed: The compressed model's, of the same shape.
        sampler: How both were made.
        seed: Image i starts from the noise that the serving runtime gives image i of this seed.
        guidance: The scale of classifier-free guidance; 1 for none.
    """

    dense: Tensor
    compressed: Tensor
    sampler: SamplerInfo
    seed: int
    guidance: float = 1.0

    def origin(self) -> JsonDict:
        """How the samples were made: sampler, steps, spacing, seeds, guidance, n."""
        how = {**self.sampler.as_dict(), "seeds": [self.seed], "guidance": self.guidance}
        return {**how, "n": len(self.dense)}


def sample_pair(
    dense: Denoiser,
    compressed: nn.Module,
    n: int,
    given: Conditioning = UNCONDITIONAL,
    *,
    steps: int = 50,
    seed: int = 0,
    batch: int = 16,
) -> Work[SamplePair]:
    """Make images from the same noise through both models.

    Args:
        dense: The dense model.
        compressed: The compressed network of the same class.
        n: How many images of each.
        given: The conditions, as in ``diffc.data.synthetic.synthesize``; without null conditions
            there is no guidance.
        steps: Of the deterministic sampler.
        seed: Of noise and labels.
        batch: How many images at a time; halved where memory has no room.
    """
    sides = (dense.model, compressed)
    pair = yield from _sample_sides(dense, sides, n, given, steps=steps, seed=seed, batch=batch)
    sampler = deterministic_loop(dense.scheduler, steps).info
    guidance = given.guidance if given.null else 1.0
    return SamplePair(pair[0], pair[1], sampler, seed, guidance)


def sample_dense(
    dense: Denoiser,
    n: int,
    given: Conditioning = UNCONDITIONAL,
    *,
    steps: int,
    seed: int = 0,
    batch: int = 16,
) -> Work[Tensor]:
    """Make the dense model's images (n, C, H, W) from the noise that ``sample_pair`` begins with.

    Args and the sampler are those of ``sample_pair``.
    """
    sides = (dense.model,)
    return (yield from _sample_sides(dense, sides, n, given, steps=steps, seed=seed, batch=batch))[
        0
    ]


def _sample_sides(
    dense: Denoiser,
    networks: Sequence[nn.Module],
    n: int,
    given: Conditioning,
    *,
    steps: int,
    seed: int,
    batch: int,
) -> Work[list[Tensor]]:
    """Each network's samples from the same noise, in float32."""
    guidance = given.guidance if given.null else 1.0
    loop, count = deterministic_loop(dense.scheduler, steps), len(networks)

    def part(index: range) -> Work[list[Tensor]]:
        rows = condition_rows(index, dense.specs, given.rows, dense.class_count, seed)
        noise = image_noise(seed, index, dense.sample_shape)
        sides = []
        for side, model in enumerate(networks):
            done = count * index.start + side * len(index)
            conditioning = Conditioning(rows, given.null, guidance)
            call = guided_call(dense.with_model(model), conditioning, torch.float32)
            device = device_of(model)
            sides.append((yield from _sample(call, device, loop, noise, done, count * n)))
        return sides

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
            start = noise[of.start : of.stop]
            return _sample(call, device_of(model), loop, start, of.start, n)

        with torch.compiler.set_stance("force_eager"):  # a batch of another size than training's
            parts = drain(run_in_batches(n, n, part, "taking samples for the curve of quality"))
        samples = torch.cat(parts)
        return samples if decode is None else drain(decode(samples))

    def ssim(model: nn.Module) -> float:
        if not dense_images:
            dense_images.append(images(dense.model))
        return estimate(SSIM.of_pairs(dense_images[0], images(model))).mean

    return ssim


def _sample(
    call: ModelCall, device: torch.device, loop: TorchLoop, noise: Tensor, done: int, total: int
) -> Work[Tensor]:
    x, steps = noise, loop.steps
    for i, x in enumerate(denoise(call, loop, noise.to(device))):
        yield Progress(done + len(x) * (i + 1) / steps, total, "sampling from the same noise")
    return x.float().cpu()
