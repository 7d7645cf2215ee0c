"""PixArtTransformer2DModel: PixArt-alpha and PixArt-Sigma."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from diffc.input_size import Size
from diffc.models.families.base import Family, PipelineTexts
from diffc_export.specs import TensorSpec
from diffc_runtime.json_types import JsonObject
from diffc_runtime.prompt_plan import EncoderUse, PromptPlan

if TYPE_CHECKING:
    from torch import Tensor, nn

_SIZES = (
    TensorSpec("resolution", (2,), example=(1024.0, 1024.0)),
    TensorSpec("aspect_ratio", (1,), example=(1.0,)),
)
"""The sizes that alpha at 1024 pixels takes beside the text: the image's, in pixels."""


class PixArt(Family):
    """The family of PixArt-alpha and PixArt-Sigma; see ``base.Family``.

    If sigma is learned (the published models) its output is (B, 2C, H, W).
    """

    class_name = "PixArtTransformer2DModel"
    component = "transformer"
    older_names = {"Transformer2DModel": {"norm_type": "ada_norm_single"}}
    text_places = {"encoder_hidden_states": (0, 2), "encoder_attention_mask": (1, 3)}
    sample_size_is_number = True
    block_returns = ("hidden_states",)
    block_parts = {
        "attn1": ("hidden_states",),
        "attn2": ("hidden_states",),
        "ff": ("hidden_states",),
    }

    def specs(
        self, config: JsonObject, resolution: Size | None = None, tokens: int | None = None
    ) -> list[TensorSpec]:
        """Return the inputs of PixArt.

        sample (C, H, W), timestep (), encoder_hidden_states (L, D), encoder_attention_mask (L,); L
        counts T5 tokens, 120 in alpha and 300 in Sigma. alpha at 1024 pixels adds resolution (2,)
        and aspect_ratio (1,).
        """
        config = self.full_config(config)
        # as the published configs tell them apart: Sigma's says false, alpha's says nothing
        length = tokens or (300 if config.get("use_additional_conditions") is False else 120)
        caption = config.get("caption_channels") or config["cross_attention_dim"]
        specs = [
            *self.image_specs(config, resolution),
            TensorSpec("encoder_hidden_states", (length, caption)),
            TensorSpec("encoder_attention_mask", (length,), "int64", example=1),
        ]
        return [*specs, *_SIZES] if _takes_sizes(config) else specs

    def call(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the predicted noise, (B, C, H, W).

        If sigma is learned (the published models), the variance follows: (B, 2C, H, W).
        """
        from diffc.models.families.exporting import exporter_workarounds

        names = [spec.name for spec in _SIZES]
        rest = {name: value for name, value in inputs.items() if name not in ("sample", *names)}
        sizes = {name: inputs.get(name) for name in names}
        with exporter_workarounds():  # its last layer squeezes a dimension that is not 1
            output: Tensor = model(
                inputs["sample"], **rest, added_cond_kwargs=sizes, return_dict=False
            )[0]
        return output

    def shared_multiple(self, config: JsonObject) -> int | None:
        """Return the patch: positions are computed in the graph."""
        return self.multiple(config)

    def prompt_plan(self, texts: PipelineTexts) -> PromptPlan | None:
        """T5 with its mask. The pipeline's cleaning of captions (links, HTML) is left out."""
        return texts.masked_plan(EncoderUse("tokenizer", texts.tokens, masked=True))


def _takes_sizes(config: JsonObject) -> bool:
    """True if the image's size is a condition; diffusers decides by sample_size if it is unset."""
    setting = config.get("use_additional_conditions")
    return bool(config["sample_size"] == 128 if setting is None else setting)


FAMILY = PixArt()
"""The one instance; see ``families.family``."""
