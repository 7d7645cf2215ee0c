"""What a call of a pipeline gives: images, as Pillow's or as numpy arrays."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from .errors import BadRequest, value_words
from .images import is_picture, to_uint8
from .values import Array

if TYPE_CHECKING:
    from PIL.Image import Image

    from .pipeline import Pipeline

OUTPUT_TYPES = ("pil", "np")


@dataclass(frozen=True)
class PipelineOutput:
    """The images of one call, named as in diffusers.

    Attributes:
        images: Pillow images; for ``output_type="np"`` an array (N, H, W, C) in [0, 1], or for
            samples that are no pictures the samples themselves, (N, ...).
    """

    images: list[Image] | Array


def check_output(kind: str, shape: tuple[int, ...] | None) -> None:
    """Refuse an output that cannot be given, before any work.

    Args:
        kind: ``output_type``.
        shape: Of one sample, without the batch; None where a decoder makes pictures of it.

    Raises:
        BadRequest: The type is unknown, Pillow is missing, or the samples are no pictures.
    """
    if not isinstance(kind, str) or kind not in OUTPUT_TYPES:
        types = ", ".join(OUTPUT_TYPES)
        raise BadRequest(f"output_type must be one of {types}, not {value_words(kind)}")
    if kind == "np":
        return
    if shape is not None and not is_picture(shape):
        raise BadRequest(
            f"samples of shape {shape} are no pictures, and there is no decoder (VAE) here: "
            "output_type='np' gives the samples"
        )
    _pillow()


def output_of(samples: Array, kind: str) -> PipelineOutput:
    """Return samples (N, C, H, W) in [-1, 1] as a call's output."""
    if kind == "pil":
        image = _pillow()
        pixels = [p[..., 0] if p.shape[-1] == 1 else p for p in to_uint8(samples)]
        return PipelineOutput([image.fromarray(p) for p in pixels])
    if not is_picture(samples.shape[1:]):
        return PipelineOutput(samples)
    unit = np.clip(samples / 2 + 0.5, 0, 1).transpose(0, 2, 3, 1)
    return PipelineOutput(np.ascontiguousarray(unit))


def _pillow() -> ModuleType:
    try:
        from PIL import Image
    except ImportError:
        raise BadRequest(
            "output_type='pil' needs Pillow: pip install pillow, or ask for output_type='np'"
        ) from None
    return Image


def pipeline_words(pipe: Pipeline) -> str:
    """What runs a pipeline, the size of its images, and what a call samples with by default."""
    shape = "x".join(str(side) for side in pipe.image_size or pipe.sample_shape)
    loop = f"{pipe.scheduler_name}, {pipe.defaults.steps} steps"
    if pipe.defaults.guidance != 1:
        loop += f", guidance {pipe.defaults.guidance:g}"
    return f"<{type(pipe).__name__}: {pipe.runs_on or 'a function'}, {shape}, {loop}>"
