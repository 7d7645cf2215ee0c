"""Converts images to latents and back, through the pipeline's own VAE.

    scale_factor     pixels for each latent position along an edge; 1 without a VAE
    pixel_shape      the shape of the images for a latent denoiser
    encode_images    images (N, C, H, W) -> latents as the denoiser takes them: the mean of the
                     VAE's posterior (random draws would differ between runs)
    decode_latents   back to images in [-1, 1], for figures and pictures

A latent is (value - shift) * scale of its VAE (``latent_factors``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffc.data.batches import run_in_batches
from diffc.errors import InputError
from diffc.models.autoencoders import Autoencoder, autoencoder, full_config
from diffc.models.config_values import reading_config
from diffc.models.foreign import foreign_errors
from diffc.models.source import Source
from diffc_export.events import Progress, Work
from diffc_runtime.json_types import JsonObject

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

Factor = float | list[float]
"""One number for all channels of a latent, or one for each."""
VAE_AT_ONCE = 8
"""Images that one call of the VAE works on, where memory has room."""


def vae_folder(source: Source) -> Path | None:
    """Return the folder of the pipeline's VAE, or None for a model of pixels."""
    part = source.vae
    if part is None or not source.is_pipeline or not (part.folder / "config.json").exists():
        return None
    return part.folder


def scale_factor(source: Source) -> int:
    """Return the pixels for each latent position along an edge; 1 for a model of pixels."""
    part = source.vae
    if part is None or vae_folder(source) is None:
        return 1
    known = autoencoder(part.class_name) or Autoencoder()
    with reading_config(part.class_name, part.config):
        return known.factor(full_config(part))


def pixel_shape(source: Source, sample: tuple[int, ...]) -> tuple[int, int, int]:
    """Return (C, H, W) of the images for a denoiser.

    Args:
        source: The model.
        sample: The shape of the denoiser's input without the batch.

    Raises:
        InputError: The samples are no images (video), or diffc cannot encode with this VAE.
    """
    folder = vae_folder(source)
    if folder is None:
        if len(sample) != 3:
            raise InputError(f"{source.name} has no VAE, and its input {sample} is not an image")
        return sample[0], sample[1], sample[2]
    assert source.vae is not None
    config, class_name = source.vae.config, source.vae.class_name
    if autoencoder(class_name) is None or len(sample) != 3:
        raise InputError(
            f"images cannot be encoded by a {class_name} for {source.name}",
            hint="leave --data out: the dense model's own samples need no encoder",
        )
    factor = scale_factor(source)
    with reading_config(class_name, config):
        return int(config.get("in_channels", 3)), sample[1] * factor, sample[2] * factor


def encode_images(source: Source, images: Tensor, sample: tuple[int, ...]) -> Work[Tensor]:
    """Encode images (N, C, H, W) in [-1, 1] as latents (N, *sample).

    Args:
        source: The model.
        images: The images.
        sample: The shape of the denoiser's input without the batch.

    Raises:
        InputError: The VAE's latents have another shape.
    """
    vae = load_vae(source)
    scale, shift = latent_factors(dict(vae.config))

    def part(rows: range) -> Work[Tensor]:
        with torch.no_grad():
            encoded = vae.encode(images[rows.start : rows.stop].to(vae.device), return_dict=False)
        value, _ = _posterior(encoded[0])
        value = (value - _broadcast(value, shift)) * _broadcast(value, scale)
        yield Progress(rows.stop, len(images), "encoding images")
        return value.float().cpu()

    parts = yield from run_in_batches(len(images), VAE_AT_ONCE, part, "encoding images by the VAE")
    latents = torch.cat(parts)
    if tuple(latents.shape[1:]) != tuple(sample):
        raise InputError(
            f"the VAE of {source.name} gives latents {tuple(latents.shape[1:])}; "
            f"the denoiser takes {tuple(sample)}"
        )
    return latents


def encode_posterior(images: Tensor, vae: AutoencoderKL) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (N, C, h, w) of images' latents, before any scaling.

    Args:
        images: (N, C, H, W) in [-1, 1].
        vae: The VAE; one without a posterior gives a deviation of 0.
    """
    parts = []
    for start in range(0, len(images), VAE_AT_ONCE):
        part = images[start : start + VAE_AT_ONCE]
        with torch.no_grad():
            parts.append(_posterior(vae.encode(part.to(vae.device), return_dict=False)[0]))
    means, deviations = (torch.cat(both).float().cpu() for both in zip(*parts, strict=True))
    return means, deviations


def decode_latents(
    source: Source, latents: Tensor, vae: AutoencoderKL | None = None
) -> Work[Tensor]:
    """Decode latents to images (N, C, H, W); a model of pixels' samples are returned unchanged.

    Args:
        source: The model.
        latents: As the denoiser gives them.
        vae: The model's VAE; None: it is loaded.
    """
    if vae_folder(source) is None:
        return latents
    vae = vae or load_vae(source)
    scale, shift = latent_factors(dict(vae.config))

    def part(rows: range) -> Work[Tensor]:
        value = latents[rows.start : rows.stop].to(vae.device)
        value = value / _broadcast(value, scale) + _broadcast(value, shift)
        with torch.no_grad():
            images: Tensor = vae.decode(value, return_dict=False)[0].float().cpu()
        yield Progress(rows.stop, len(latents), "decoding samples")
        return images

    parts = yield from run_in_batches(
        len(latents), VAE_AT_ONCE, part, "decoding samples by the VAE"
    )
    return torch.cat(parts)


def check_decoder(source: Source, sample: tuple[int, ...]) -> None:
    """Decode one sample on the meta device, without weights.

    Args:
        source: The model.
        sample: The shape of the denoiser's input. Videos are not decoded.

    Raises:
        InputError: The VAE does not take the sample, or a factor in its config is not a number.
    """
    from diffc.models.cut import skeleton

    part = source.vae
    if part is None or part.name == source.component or len(sample) != 3:
        return
    part.need_folder()
    vae: AutoencoderKL = skeleton(part.class_name, part.config)
    latent = torch.empty(1, *sample, device="meta")
    for factor in latent_factors(part.config):
        _broadcast(latent, factor)
    wrong = f"the VAE {part.folder} cannot decode the denoiser's samples {sample}"
    hint = "the VAE belongs to another model: give the one that the denoiser was trained with"
    with foreign_errors(wrong, hint), suppress(NotImplementedError), torch.no_grad():
        vae.decode(latent, return_dict=False)  # some operators have no meta version


def load_vae(source: Source) -> AutoencoderKL:
    """Return the pipeline's VAE in float32, on the best device.

    Raises:
        InputError: The VAE cannot be loaded.
    """
    from diffc.data.precision import best_device
    from diffc.models.load import load_component

    assert source.vae is not None
    return load_component(source.vae).to(best_device())


@contextmanager
def mapped_vae(source: Source) -> Iterator[AutoencoderKL]:
    """The pipeline's VAE in float32, on the CPU; its weights stay in their files.

    Raises:
        InputError: The VAE cannot be loaded, or its files were altered meanwhile.
    """
    from diffc.models.mapped import mapped_component

    assert source.vae is not None
    with mapped_component(source.vae) as vae:
        yield vae


def latent_factors(config: JsonObject) -> tuple[Factor, Factor]:
    """Return (scale, shift) of a VAE's config: a latent is (value - shift) * scale.

    A VAE with ``latents_mean`` and ``latents_std`` has its own value for each channel; scale is
    then scaling_factor / std, as in SDXL's pipelines.
    """
    with reading_config(_vae_class(config), config):
        scaling = float(config.get("scaling_factor") or 1.0)
        mean, std = config.get("latents_mean"), config.get("latents_std")
        if mean is None or std is None:
            return scaling, float(config.get("shift_factor") or 0.0)
        return [scaling / float(value) for value in std], [float(value) for value in mean]


def _vae_class(config: JsonObject) -> str:
    """Return the class that a VAE's config names; "VAE" if it names none."""
    return str(config.get("_class_name") or "VAE")


def _broadcast(latents: Tensor, factor: Factor) -> Tensor:
    """Return a factor in a shape that broadcasts over latents (N, C, ...)."""
    values = torch.tensor(factor, dtype=latents.dtype, device=latents.device)
    if values.ndim and len(values) != latents.shape[1]:
        raise InputError(
            f"the VAE's latents_mean and latents_std have {len(values)} values, "
            f"and its latents {latents.shape[1]} channels",
            hint="one value for each channel is needed; see the VAE's config.json",
        )
    return values.reshape(-1, *[1] * (latents.ndim - 2)) if values.ndim else values


def _posterior(encoded: Any) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of what an encoder gives: a posterior, or the latents alone."""
    if isinstance(encoded, Tensor):
        return encoded, torch.zeros_like(encoded)
    return encoded.mode(), encoded.std
