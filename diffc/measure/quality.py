"""How close the compressed model's samples are to the dense one's.

    sample_pair      images from the same noise through both, by the same deterministic sampler
    compare_samples  SSIM and PSNR over such pairs (the paper's consistency), 95 % intervals
    consistency      the mean SSIM of a few such pairs, for a curve over training
    Samples          the pairs, with sampler, steps, spacing and seed: what every figure carries
    grid             a PNG, dense above compressed, that people can look at
    write_pair       two PNGs of one size, to lay one over the other

Images are compared as they would be saved: clipped to [-1, 1]. SSIM is Wang et al. 2004 by
torchmetrics: a Gaussian window of 11, sigma 1.5, data range 2, edges mirrored. Intervals are
Student's t over the per-image values, so they cover the choice of noise and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffc.data.batches import run_in_batches
from diffc.data.precision import device_of
from diffc.data.randomness import keyed_noise
from diffc.data.sampling import (
    ModelCall,
    SamplerInfo,
    denoise,
    deterministic_scheduler,
    sampler_info,
)
from diffc.data.synthetic import UNCONDITIONAL, Conditioning, condition_rows, guided_call
from diffc.errors import InputError
from diffc.measure.pictures import broken_samples, left_out
from diffc.measure.ssim import WINDOW
from diffc.models.denoiser import Denoiser
from diffc_export.events import Progress, Work, drain
from diffc_runtime.files import new_file

EVALUATION = 7  # the stream of keys that evaluation noise is drawn from, apart from training's


@dataclass(frozen=True)
class Samples:
    """Images from the same noise: ``dense`` and ``compressed`` (N, C, H, W), row by row.

    sampler: how both were made. seed: image i starts from noise keyed by (seed, i).
    guidance: the scale of classifier-free guidance; 1 for none.
    """

    dense: Tensor
    compressed: Tensor
    sampler: SamplerInfo
    seed: int
    guidance: float = 1.0

    def origin(self) -> dict[str, Any]:
        """sampler, steps, spacing, seeds, guidance, n: what stands beside every figure."""
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
) -> Work[Samples]:
    """Make images from the same noise through both models, in float32.

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
    guidance = given.guidance if given.null else 1.0
    scheduler = deterministic_scheduler(dense.scheduler, steps)

    def part(index: range) -> Work[list[Tensor]]:
        rows = condition_rows(index, dense.specs, given.rows, dense.class_count, seed)
        noise = keyed_noise(((seed, EVALUATION, i) for i in index), dense.sample_shape)
        pair = []
        for side, model in enumerate((dense.model, compressed)):
            done = 2 * index.start + side * len(index)
            conditioning = Conditioning(rows, given.null, guidance)
            call = guided_call(dense.with_model(model), conditioning, torch.float32)
            device = device_of(model)
            pair.append((yield from _sample(call, device, scheduler, noise, done, 2 * n)))
        return pair

    parts = yield from run_in_batches(n, batch, part, "taking samples")
    pair = [torch.cat(side) for side in zip(*parts, strict=True)]
    return Samples(pair[0], pair[1], sampler_info(scheduler), seed, guidance)


def consistency(
    dense: Denoiser,
    conditions: Mapping[str, Tensor],
    *,
    n: int = 8,
    steps: int = 20,
    decode: Callable[[Tensor], Work[Tensor]] | None = None,
) -> Callable[[nn.Module], float]:
    """A function from a model to its mean SSIM to ``dense`` over ``n`` images, seed 0.

    Few images and steps, to watch a training run by; ``quality`` gives figures to report. The dense
    images are made once, on the first call.

    decode: from the denoiser's samples to images, for latent models.
    """
    scheduler = deterministic_scheduler(dense.scheduler, steps)
    rows = condition_rows(range(n), dense.specs, conditions, dense.class_count, 0)
    noise = keyed_noise(((0, EVALUATION, i) for i in range(n)), dense.sample_shape)
    dense_images: list[Tensor] = []

    def images(model: nn.Module) -> Tensor:
        def part(of: range) -> Work[Tensor]:
            given = Conditioning({name: v[of.start : of.stop] for name, v in rows.items()})
            call = guided_call(dense.with_model(model), given, torch.float32)
            start = noise[of.start : of.stop]
            return _sample(call, device_of(model), scheduler, start, of.start, n)

        with torch.compiler.set_stance("force_eager"):  # a batch of another size than training's
            parts = drain(run_in_batches(n, n, part, "taking samples for the curve of quality"))
        samples = torch.cat(parts)
        return samples if decode is None else drain(decode(samples))

    def ssim(model: nn.Module) -> float:
        if not dense_images:
            dense_images.append(images(dense.model))
        return estimate(ssim_per_image(dense_images[0], images(model))).mean

    return ssim


def _sample(
    call: ModelCall, device: torch.device, scheduler: Any, noise: Tensor, done: int, total: int
) -> Work[Tensor]:
    x, steps = noise, len(scheduler.timesteps)
    for i, x in enumerate(denoise(call, scheduler, noise.to(device))):
        yield Progress(done + len(x) * (i + 1) / steps, total, "sampling from the same noise")
    return x.float().cpu()


@dataclass(frozen=True)
class Estimate:
    """A mean over images with its 95 % interval (None for one image), and the values."""

    mean: float
    ci95: tuple[float, float] | None
    values: list[float] = field(repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for reports; the per-image ones are left out."""
        return {"mean": self.mean, "ci95": self.ci95 and list(self.ci95)}


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and Student's t interval; one value has none."""
    from scipy import stats

    n, mean = len(values), math.fsum(values) / len(values)
    if n < 2:
        return Estimate(mean, None, list(values))
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    half = float(stats.t.ppf(0.975, n - 1)) * math.sqrt(variance / n)
    return Estimate(mean, (mean - half, mean + half), list(values))


_IDENTICAL = "PSNR is infinite: every pair of images is identical"
INTENSITIES = (0.0, 1.0)
"""What SSIM is taken on, and says so in its figure: before, it was [-1, 1]."""


def ssim_per_image(dense: Tensor, compressed: Tensor) -> list[float]:
    """SSIM of each pair; (N, C, H, W) in [-1, 1], at least 11x11.

    Taken on intensities in [0, 1]: its luminance term compares means as light, and means of either
    sign make an image resemble its own negative.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    a, b = _comparable(dense, compressed)
    if min(a.shape[-2:]) < WINDOW:
        raise InputError(
            f"SSIM needs images of at least {WINDOW}x{WINDOW}; these are {tuple(a.shape[-2:])}"
        )
    values = ssim((b + 1) / 2, (a + 1) / 2, data_range=1.0, reduction="none")
    return [float(value) for value in values.reshape(-1)]


def psnr_per_image(dense: Tensor, compressed: Tensor) -> list[float]:
    """PSNR of each pair in dB; (N, C, H, W) in [-1, 1]. Identical images give infinity."""
    from torchmetrics.functional.image import peak_signal_noise_ratio as psnr

    a, b = _comparable(dense, compressed)
    values = psnr(b, a, data_range=2.0, reduction="none", dim=(1, 2, 3))
    return [float(value) for value in values.reshape(-1)]


def _check_pairs(dense: Tensor, compressed: Tensor) -> None:
    if dense.shape != compressed.shape or not len(dense):
        raise InputError(
            f"samples of shapes {tuple(dense.shape)} and {tuple(compressed.shape)} "
            "cannot be compared pair by pair"
        )


def _comparable(dense: Tensor, compressed: Tensor) -> tuple[Tensor, Tensor]:
    _check_pairs(dense, compressed)
    return dense.float().clamp(-1, 1), compressed.float().clamp(-1, 1)


def compare_samples(dense: Tensor, compressed: Tensor) -> dict[str, Any]:
    """``ssim`` and ``psnr``, each ``mean`` and ``ci95``, and ``n``, over pairs of images.

    dense, compressed: (N, C, H, W) in [-1, 1], row i of both from the same noise. An infinite PSNR
    (identical images) is left out of the mean; ``identical`` counts them. A figure that cannot be
    taken is None, and ``absent`` has its name and the reason.
    """
    _check_pairs(dense, compressed)
    reasons = _absent(dense, compressed)
    if {"ssim", "psnr"} <= reasons.keys():
        return {"ssim": None, "psnr": None, "identical": 0, "n": len(dense), "absent": reasons}
    finite = [value for value in psnr_per_image(dense, compressed) if math.isfinite(value)]
    return {
        "ssim": _ssim_figure(dense, compressed) if "ssim" not in reasons else None,
        "psnr": estimate(finite).as_dict() if finite else None,
        "identical": len(dense) - len(finite),
        "n": len(dense),
        "absent": reasons if finite else {**reasons, "psnr": _IDENTICAL},
    }


def _ssim_figure(dense: Tensor, compressed: Tensor) -> dict[str, Any]:
    values = ssim_per_image(dense, compressed)
    return {**estimate(values).as_dict(), "intensities": list(INTENSITIES)}


def _absent(dense: Tensor, compressed: Tensor) -> dict[str, str]:
    """Of SSIM and PSNR: figure -> why these pairs cannot have it."""
    why = broken_samples(dense, compressed)
    if why is not None:
        return {"ssim": why, "psnr": why}
    reasons = left_out((dense.shape[1], dense.shape[2], dense.shape[3]))
    return {name: why for name, why in reasons.items() if name == "ssim"}


def quality(samples: Samples) -> dict[str, Any]:
    """``compare_samples`` with sampler, steps, spacing and seeds beside each figure.

    ``absent``, where there is any: figure -> why it could not be taken.
    """
    figures = compare_samples(samples.dense, samples.compressed)
    origin = samples.origin()
    found: dict[str, Any] = {
        name: {**figures[name], **origin} if figures[name] is not None else None
        for name in ("ssim", "psnr")
    }
    return {**found, "absent": figures["absent"]} if figures["absent"] else found


def grid(samples: Samples, path: Path, *, columns: int = 8, side: int = 96) -> Path:
    """Write a PNG of the first ``columns`` pairs: a row of dense, a row of compressed, labelled.

    Small images are enlarged by whole factors to about ``side`` pixels, without smoothing.
    """
    from PIL import Image, ImageDraw

    n = min(columns, len(samples.dense))
    height, width = samples.dense.shape[-2:]
    scale = max(1, side // max(height, width))
    cell, margin, label = (width * scale, height * scale), 4, 84
    rows = (("dense", samples.dense), ("compressed", samples.compressed))
    size = (label + n * (cell[0] + margin) + margin, len(rows) * (cell[1] + margin) + margin)
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    for row, (name, images) in enumerate(rows):
        top = margin + row * (cell[1] + margin)
        draw.text((8, top + cell[1] // 2 - 6), name, fill="black")
        for column in range(n):
            picture = to_image(images[column]).resize(cell, Image.Resampling.NEAREST)
            canvas.paste(picture, (label + column * (cell[0] + margin), top))
    with new_file(path) as part:
        canvas.save(part, format="PNG")
    return path


def write_pair(samples: Samples, folder: Path, *, columns: int = 8, rows: int = 2,
               side: int = 96) -> tuple[Path, Path]:  # fmt: skip
    """``dense.png`` and ``compressed.png``: the same images at the same places, no label.

    Pictures to lay one over the other: up to ``columns`` x ``rows``, enlarged as in ``grid``.
    """
    from PIL import Image

    n = min(columns * rows, len(samples.dense))
    height, width = samples.dense.shape[-2:]
    scale, margin = max(1, side // max(height, width)), 4
    cell = (width * scale + margin, height * scale + margin)
    size = (min(n, columns) * cell[0] - margin, -(-n // columns) * cell[1] - margin)
    paths = (folder / "dense.png", folder / "compressed.png")
    for path, images in zip(paths, (samples.dense, samples.compressed), strict=True):
        canvas = Image.new("RGB", size, "white")
        for i in range(n):
            picture = to_image(images[i]).resize(
                (width * scale, height * scale), Image.Resampling.NEAREST
            )
            canvas.paste(picture, (i % columns * cell[0], i // columns * cell[1]))
        with new_file(path) as part:
            canvas.save(part, format="PNG")
    return paths


def to_image(image: Tensor) -> Any:
    """(C, H, W) in [-1, 1] as a Pillow image: RGB of three channels or more, else greyscale.

    What is not a number is black.
    """
    from PIL import Image

    shown = image.float().nan_to_num(-1.0).clamp(-1, 1)
    array = ((shown + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(array[..., :3] if array.shape[-1] >= 3 else array[..., 0])
