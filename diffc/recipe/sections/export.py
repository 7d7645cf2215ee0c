"""``export``: ONNX, and the resolutions that one file serves."""

from __future__ import annotations

from pydantic import Field, field_serializer, model_validator

from diffc.input_size import Size, as_pair, read_size
from diffc.recipe.sections.base import RecipeSection
from diffc.recipe.words import Sides


class ExportSection(RecipeSection):
    """``export``: ONNX, and the resolutions that one file serves.

    Attributes:
        opset: the ONNX opset.
        simplify: True lets onnxslim simplify the graph.
        resolution: sides of the denoiser's own input, 64 or "64x96" (height x width): one, or
            several that one file serves. The model is compressed at the first; None: at the
            config's own. A recipe file may give one side without a list.
    """

    opset: int = Field(default=20, ge=17, le=23)
    simplify: bool = True
    resolution: Sides | None = None

    @model_validator(mode="after")
    def _check_sides(self) -> ExportSection:
        sides = self.resolution
        if sides is None:
            return self
        if not sides:
            raise ValueError("resolution: the list has no side")
        if min(min(as_pair(read_size(side))) for side in sides) < 1:
            raise ValueError(f"resolution: {list(sides)} has a side below 1")
        twice = [side for side in sides if sides.count(side) > 1]
        if twice:
            raise ValueError(f"resolution: {list(sides)} names {twice[0]} twice")
        return self

    @field_serializer("resolution")
    def _resolution_as_written(
        self, sides: tuple[int | str, ...] | None
    ) -> int | str | tuple[int | str, ...] | None:
        """Write one side as a number, as the caches and locks of older versions have it."""
        return sides[0] if sides and len(sides) == 1 else sides

    @property
    def requested_sizes(self) -> tuple[Size, ...]:
        """Every size of ``resolution``, as numbers; empty where the config's own is used."""
        return tuple(read_size(word) for word in self.resolution or ())

    @property
    def size(self) -> Size | None:
        """The working size, at which the model is compressed, sampled and checked."""
        return self.requested_sizes[0] if self.resolution else None

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(H, W) of everything that one file serves, the working size first; empty for one size."""
        requested = self.requested_sizes
        return tuple(map(as_pair, requested)) if len(requested) > 1 else ()
