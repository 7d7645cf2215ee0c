"""Channels in and out of a denoiser: which inputs it has beside the sample to denoise.

Inpainting, editing, upscaling and image-to-video models take their condition as further channels
of the sample, and predict the sample's own channels alone. Where the family knows what they hold,
they are conditions of their own (``Family.condition_channels``); diffc has no values for others.
"""

from __future__ import annotations

from diffc.errors import InputError
from diffc.models.config_values import reading_config
from diffc.models.families import family
from diffc.models.source import Source

_CHANNEL_MEANINGS = (
    ("Inpaint", "the mask and the masked image"),
    ("Fill", "the mask and the masked image"),
    ("InstructPix2Pix", "the image to edit"),
    ("Depth2Img", "a depth map"),
    ("Upscale", "the low-resolution image"),
    ("SuperResolution", "the low-resolution image"),
    ("Marigold", "the image that is looked at"),
    ("ImageToVideo", "the first frame and its mask"),
    ("VideoToVideo", "the video to change"),
    ("Video", "the frames that are given"),
    ("Control", "the control image"),
    ("Zero123", "the image of the object"),
    ("Img2Img", "the image to change"),
)
"""Part of a pipeline's class name -> what the further channels hold."""


def check_channels(source: Source) -> None:
    """Refuse a denoiser that predicts another number of channels than it denoises.

    Twice as many outputs as inputs are a learned variance; diffc leaves out that second half
    everywhere.

    Args:
        source: The model.

    Raises:
        InputError: The numbers differ. The message gives both, and what the other channels hold
            where the pipeline's class tells.
    """
    known = family(source.class_name)
    if not known.is_denoiser:
        return
    with reading_config(source.class_name, source.config):
        config = known.full_config(source.config)
        taken = int(config["in_channels"])
        predicted = int(config.get("out_channels") or taken)
        further = known.condition_channels(config)
    if predicted in (taken, 2 * taken) or (further and predicted == taken - further):
        return
    if predicted > taken:
        raise InputError(
            f"{source.class_name} takes {taken} channels and predicts {predicted}, "
            "which is neither the sample nor the sample with its variance",
            hint=f"as many outputs as inputs ({taken}), or twice as many, are supported",
        )
    name = str(source.index.get("_class_name", ""))
    what = next(
        (words for part, words in _CHANNEL_MEANINGS if part in name), "such as a mask or an image"
    )
    raise InputError(
        f"{source.class_name} takes {taken} channels and predicts {predicted}: "
        f"the other {taken - predicted} {'is' if taken - predicted == 1 else 'are'} a condition "
        f"({what}), for which diffc has no values",
        hint="plan and inspect work; compile takes models that denoise all of their channels, and "
        "U-Nets such as Stable Diffusion's for inpainting and InstructPix2Pix's",
    )
