"""Which figures the samples of a model can have: from their shape, before any is made.

picture_shape   (C, H, W) of the decoded samples; None for what is no picture (a video)
left_out        figure -> why these pictures cannot have it
check_pictures  the same as notes, for what a recipe wants; refuses where weights lack
broken_samples  why samples that were made have no figures at all
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffc.data.latents import pixel_shape, scale_factor, vae_folder
from diffc.errors import InputError
from diffc.measure.ssim import WINDOW
from diffc.models.families import family
from diffc.models.source import Source
from diffc.recipe import QualitySection

_LPIPS_SIDE = 31
"""AlexNet's strides leave nothing of a smaller picture."""


def picture_shape(source: Source, sample: tuple[int, ...]) -> tuple[int, int, int] | None:
    """The shape of the pictures behind samples of shape ``sample``; None where they are none."""
    if vae_folder(source) is None:
        return (sample[0], sample[1], sample[2]) if len(sample) == 3 else None
    if len(family(source.class_name).latent_shape(sample)) != 3:
        return None
    try:
        return pixel_shape(source, sample)
    except InputError:  # a VAE that can decode, and that diffc does not encode with
        factor = scale_factor(source)
        return (3, sample[1] * factor, sample[2] * factor) if len(sample) == 3 else None


def left_out(shape: tuple[int, int, int]) -> dict[str, str]:
    """Figure -> a sentence on why it is left out: ``ssim``, ``lpips``, ``reference``.

    Args:
        shape: (C, H, W) of the pictures.
    """
    channels, side = shape[0], min(shape[1:])
    size = f"{shape[1]}x{shape[2]}"
    reasons = {}
    if side < WINDOW:
        reasons["ssim"] = (
            f"SSIM is left out: it needs pictures of at least {WINDOW}x{WINDOW}, and these are "
            f"{size}"
        )
    if channels not in (1, 3):
        for name, what in (("lpips", "LPIPS is"), ("reference", "distances to images are")):
            reasons[name] = f"{what} left out: the samples have {channels} channels, not 1 or 3"
    elif side < _LPIPS_SIDE:
        reasons["lpips"] = (
            f"LPIPS is left out: it needs pictures of at least {_LPIPS_SIDE}x{_LPIPS_SIDE}, and "
            f"these are {size}"
        )
    return reasons


def check_pictures(source: Source, sample: tuple[int, ...], options: QualitySection) -> list[str]:
    """What a run's samples will not have, one sentence each.

    Raises:
        UnavailableError: the weights that a figure needs are not on this machine.
    """
    from diffc.measure.distances import INCEPTION, check_perceptual
    from diffc.measure.frechet import check_inception, inception_weights

    shape = picture_shape(source, sample)
    if shape is None:
        return [
            f"samples of shape {sample} are no pictures: none are shown, and no figure says how "
            "alike they are"
        ]
    wanted = {"ssim": True, "lpips": options.lpips, "reference": options.reference is not None}
    impossible = left_out(shape)
    if options.lpips and "lpips" not in impossible:
        check_perceptual()
    distances = options.reference is not None and "reference" not in impossible
    if distances and options.features == INCEPTION:
        check_inception(inception_weights())
    return [why for name, why in impossible.items() if wanted[name]]


def broken_samples(dense: Tensor, compressed: Tensor) -> str | None:
    """Why pairs of samples (N, ...) have no figures; None where every value is finite."""
    words = []
    for side, images in (("dense", dense), ("compressed", compressed)):
        count = int((~torch.isfinite(images).flatten(1).all(1)).sum())
        if count:
            words.append(f"{count} of {len(images)} samples of the {side} model")
    return f"no figures: {' and '.join(words)} hold NaN or infinity" if words else None
