"""``data``: clean samples for importance, distillation and parity."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from diffc.recipe.sections.base import RecipeSection
from diffc.recipe.words import PathText


class DataSection(RecipeSection):
    """``data``: clean samples for importance, distillation and parity.

    Attributes:
        source: ``synthetic`` (the dense model's own samples), an image folder, an ``.npz``, the
            folder of a Hugging Face data set, or a ``.safetensors`` of the denoiser's own inputs
            (data/tensors.py).
        prompts: a text file with one prompt a line, for text-conditioned models. Sample i goes with
            prompt i modulo their number.
        guidance: the scale of classifier-free guidance when the dense model is sampled with
            prompts, or the guidance input of a model that takes one. None: decided from the model
            (data/guidance.py): 4, or 1 for models that were distilled for few steps.
        images: how many samples are made, or the most that are taken.
        steps: steps of the synthetic samples, of DPM-Solver++ (of Euler along a flow).
        batch: images that are sampled or encoded at once.
        fit: what happens to images of another size: ``skip`` or ``resize``.
    """

    source: PathText = "synthetic"
    prompts: PathText | None = None
    guidance: float | None = Field(default=None, ge=1, allow_inf_nan=False)
    images: int = Field(default=256, ge=1)
    steps: int = Field(default=20, ge=1)
    batch: int = Field(default=32, ge=1)
    fit: Literal["skip", "resize"] = "skip"
