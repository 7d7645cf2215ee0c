"""The figures that a model's samples can have: from their shape, before any is made.

picture_shape   (C, H, W) of the decoded samples; None where they are no pictures (a video)
check_pictures  notes on the figures that a recipe wants and its samples cannot have; refuses a run
                that lacks weights
broken_samples  why samples have no figures at all
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffc.data.latents import pixel_shape, scale_factor, vae_folder
from diffc.errors import InputError
from diffc.measure.quality.measuring import checked_metrics, wanted_metrics
from diffc.models.source import Source
from diffc.recipe import QualitySection


def picture_shape(source: Source, sample: tuple[int, ...]) -> tuple[int, int, int] | None:
    """(C, H, W) of the pictures that samples of shape ``sample`` become; None for a video."""
    if vae_folder(source) is None:
        return (sample[0], sample[1], sample[2]) if len(sample) == 3 else None
    if len(sample) != 3:
        return None
    try:
        return pixel_shape(source, sample)
    except InputError:  # a VAE that can decode, and that diffc does not encode with
        factor = scale_factor(source)
        return 3, sample[1] * factor, sample[2] * factor


def check_pictures(source: Source, sample: tuple[int, ...], options: QualitySection) -> list[str]:
    """Refuse figures that a run cannot have for want of weights, packages or options.

    Returns:
        Sentences on the wanted figures that its samples cannot have, whatever is installed.

    Raises:
        UnavailableError: The weights or the package that a figure needs are not on this machine.
        RequestError: A metric does not exist, or lacks an option.
    """
    shape = picture_shape(source, sample)
    if shape is None:
        return [
            f"samples of shape {sample} are no pictures: none are shown, and no figure says how "
            "alike they are"
        ]
    checked_metrics(shape, options)
    reasons = [one.why_impossible(shape) for one in wanted_metrics(options)]
    return list(dict.fromkeys(reason for reason in reasons if reason is not None))


def broken_samples(dense: Tensor, compressed: Tensor) -> str | None:
    """The reason why samples (N, ...) have no figures; None where every value is finite."""
    words = []
    for side, images in (("dense", dense), ("compressed", compressed)):
        count = int((~torch.isfinite(images).flatten(1).all(1)).sum())
        if count:
            words.append(f"{count} of {len(images)} samples of the {side} model")
    return f"no figures: {' and '.join(words)} hold NaN or infinity" if words else None
