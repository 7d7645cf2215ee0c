"""``repair``: least-squares weights right after the cut."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from diffc.recipe.sections.base import RecipeSection
from diffc.recipe.words import OnOff


class RepairSection(RecipeSection):
    """``repair``: how the cut model is mended without training, before it is distilled.

    Attributes:
        mode: ``on`` gives each layer that reads cut channels the least-squares weights to the dense
            layer's outputs; ``off`` leaves the cut model as it is.
        rows: noised samples to use, a quarter of which only judge. Fewer are used where their
            activations, which are in memory together, take more than 4 GiB.
    """

    mode: Annotated[Literal["on", "off"], OnOff] = "on"
    rows: int = Field(default=256, ge=4)
