"""``export``: ONNX, and the resolutions that one file serves."""

from __future__ import annotations

from pydantic import Field, field_serializer, model_validator

from diffc.input_size import Size, as_pair, read_size
from diffc.recipe.sections.base import RecipeSection
from diffc.recipe.words import Sizes


class ExportSection(RecipeSection):
    """``export``: ONNX, and the resolutions that one file serves.

    Attributes:
        opset: the ONNX opset.
        simplify: True lets onnxslim simplify the graph.
        resolution: sizes of the denoiser's own input, 64 or "64x96" (height x width): one, or
            several that one file serves. The model is compressed at the first; None: at the
            config's own. A recipe file may give one size without a list.
    """

    opset: int = Field(default=20, ge=17, le=23)
    simplify: bool = True
    resolution: Sizes | None = None

    @model_validator(mode="after")
    def _check_sizes(self) -> ExportSection:
        sizes = self.resolution
        if sizes is None:
            return self
        if not sizes:
            raise ValueError("resolution: the list has no side")
        if min(min(as_pair(read_size(size))) for size in sizes) < 1:
            raise ValueError(f"resolution: {list(sizes)} has a side below 1")
        twice = [size for size in sizes if sizes.count(size) > 1]
        if twice:
            raise ValueError(f"resolution: {list(sizes)} names {twice[0]} twice")
        return self

    @field_serializer("resolution")
    def _resolution_as_written(
        self, sizes: tuple[int | str, ...] | None
    ) -> int | str | tuple[int | str, ...] | None:
        """Write one size as a number, as the caches and locks of older versions have it."""
        return sizes[0] if sizes and len(sizes) == 1 else sizes

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
