"""DiTTransformer2DModel: class-conditional diffusion transformer (Peebles and Xie, 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from diffc.input_size import Size
from diffc.models.families.base import LABELS, Family
from diffc_export.specs import TensorSpec
from diffc_runtime.json_types import JsonObject

if TYPE_CHECKING:
    from torch import Tensor, nn

    from diffc.models.branches import Branch

_CLASSES = 1000  # diffusers' own number, where the config leaves it out


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
    called_apart = ("transformer_blocks.0.norm1.emb",)
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

    def sized_call(self, model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return what the class returns, whose own end takes the square root of a number of tokens
        for its height: a graph has no such number.
        """
        import torch
        from torch.nn import functional

        sample, given = inputs["sample"], (inputs["timestep"], inputs[LABELS.name])
        patch = model.config.patch_size
        rows, columns = (side // patch for side in sample.shape[-2:])
        hidden = model.pos_embed(sample)
        for block in model.transformer_blocks:
            hidden = block(hidden, timestep=given[0], class_labels=given[1])
        end = model.transformer_blocks[0].norm1.emb(*given, hidden_dtype=hidden.dtype)
        shift, scale = model.proj_out_1(functional.silu(end)).chunk(2, dim=1)
        hidden = model.norm_out(hidden) * (1 + scale[:, None]) + shift[:, None]
        tiles = model.proj_out_2(hidden).reshape(
            -1, rows, columns, patch, patch, model.out_channels
        )
        image = torch.einsum("nhwpqc->nchpwq", tiles)
        return image.reshape(-1, model.out_channels, rows * patch, columns * patch)

    def shared_multiple(self, config: JsonObject) -> int | None:
        """Return the patch: positions are computed in the graph."""
        return self.multiple(config)

    def branches(self, model: nn.Module) -> list[Branch]:
        """All blocks but the first, whose embedding of the timestep the model's end uses too."""
        branches = super().branches(model)
        return [branch for branch in branches if branch.name != "transformer_blocks.0"]

    def class_count(self, config: JsonObject) -> int | None:
        """Return the number of classes, without the null class."""
        return int(config.get("num_embeds_ada_norm", _CLASSES) or 0) or None

    def null_conditions(self, config: JsonObject) -> dict[str, int]:
        """Return the label for "no class": the one after the last class."""
        return {LABELS.name: int(config.get("num_embeds_ada_norm", _CLASSES))}


FAMILY = DiT()
"""The one instance; see ``families.family``."""
