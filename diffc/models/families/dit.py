"""DiTTransformer2DModel: class-conditional diffusion transformer (Peebles and Xie, 2023)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from diffc.input_size import Size
from diffc.models.families.base import LABELS, Family
from diffc_export.specs import TensorSpec
from diffc_runtime.json_types import JsonObject

if TYPE_CHECKING:
    from torch import nn

    from diffc.models.branches import Branch


class DiT(Family):
    """The family of class-conditional diffusion transformers; see ``base.Family``.

    The class unfolds its tokens to a square. If sigma is learned (the published models) its output
    is (B, 2C, H, W).
    """

    class_name = "DiTTransformer2DModel"
    component = "transformer"
    older_names = {"Transformer2DModel": {"norm_type": "ada_norm_zero"}}
    squares_only = True
    sample_size_is_number = True
    block_returns = ("hidden_states",)
    block_parts = {"attn1": ("hidden_states",), "ff": ("hidden_states",)}

    def specs(
        self,
        config: JsonObject,
        resolution: Size | None = None,
        tokens: int | None = None,  # it has no text
    ) -> list[TensorSpec]:
        """Return sample (C, H, W) with H = W, timestep () and class_labels ()."""
        config = self.full_config(config)
        labels = replace(LABELS, example=range(self.class_count(config) or 1))
        return [*self.image_specs(config, resolution), labels]

    def branches(self, model: nn.Module) -> list[Branch]:
        """All blocks but the first, whose embedding of the timestep the model's end uses too."""
        branches = super().branches(model)
        return [branch for branch in branches if branch.name != "transformer_blocks.0"]

    def class_count(self, config: JsonObject) -> int | None:
        """Return the number of classes, without the null class."""
        return int(config.get("num_embeds_ada_norm") or 0) or None

    def null_conditions(self, config: JsonObject) -> dict[str, int]:
        """Return the label for "no class": the one after the last class."""
        return {LABELS.name: int(config["num_embeds_ada_norm"])}


FAMILY = DiT()
"""The one instance; see ``families.family``."""
