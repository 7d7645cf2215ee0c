"""``text``: the text encoders of a pipeline."""

from __future__ import annotations

from typing import Annotated, Literal

from diffc.recipe.sections.base import RecipeSection
from diffc.recipe.words import OnOff


class TextSection(RecipeSection):
    """``text``: what becomes of a pipeline's text encoders.

    Attributes:
        encoders: ``on`` makes engines of them, so that images are made of prompts; ``off`` leaves
            them with the caller, who gives embeddings.
    """

    encoders: Annotated[Literal["on", "off"], OnOff] = "on"
