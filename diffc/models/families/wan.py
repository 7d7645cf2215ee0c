"""WanTransformer3DModel: Wan 2.1 and 2.2, text (or image) to video.

Queries and keys are normalised over all heads together, so that cutting heads changes the
statistics of that normalisation: close, but not exact as it is elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from diffc.input_size import Size, as_pair
from diffc.models.families.base import TIMESTEP, Family, PipelineTexts
from diffc_export.specs import TensorSpec
from diffc_runtime.json_types import JsonObject
from diffc_runtime.prompt_plan import EncoderUse, Piece, PromptPlan

if TYPE_CHECKING:
    from torch import Tensor, nn

    from diffc.models.groups import Group

_TOKENS = 512  # T5's; the image-to-video attention has this number written into its code
_IMAGE_TOKENS = 257  # CLIP's
_POSITIONS = 1024  # diffusers' own number, where the config leaves the table's length out
_VIDEO = (21, 60, 104)  # latent frames, height and width of 81 frames of 480 x 832


class Wan(Family):
    """The family of Wan 2.1 and 2.2; see ``base.Family``."""

    class_name = "WanTransformer3DModel"
    component = "transformer"
    lora_loader = "WanLoraLoaderMixin"
    text_places = {"encoder_hidden_states": (0, 1)}
    block_lists = ("blocks",)
    depth_entries = {"blocks": "num_layers"}
    block_returns = ("hidden_states",)
    block_parts = {
        "attn1": ("hidden_states",),
        "attn2": ("hidden_states",),
        "ffn": ("hidden_states",),
    }

    def specs(
        self, config: JsonObject, resolution: Size | None = None, tokens: int | None = None
    ) -> list[TensorSpec]:
        """Return the inputs of Wan.

        sample (C, F, H, W), timestep (), encoder_hidden_states (512, D), and for image-to-video
        encoder_hidden_states_image (257, I), or (514, I) for a first and a last picture.

        Args:
            config: The content of config.json.
            resolution: The height and width of a latent of 21 frames; None: 60 x 104.
            tokens: The length of the text condition; None: T5's 512.
        """
        config = self.full_config(config)
        frames, height, width = _VIDEO
        if resolution:
            height, width = as_pair(resolution)
        sample = (config["in_channels"], frames, height, width)
        specs = [
            TensorSpec("sample", sample, kind="sample"),
            TIMESTEP,
            TensorSpec("encoder_hidden_states", (tokens or _TOKENS, config["text_dim"])),
        ]
        if config.get("image_dim") is not None:
            specs[-1] = TensorSpec("encoder_hidden_states", (_TOKENS, config["text_dim"]))
            pictures = (config.get("pos_embed_seq_len") or _IMAGE_TOKENS, config["image_dim"])
            specs.append(TensorSpec("encoder_hidden_states_image", pictures))
        return specs

    def call(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the predicted velocity, (B, C, F, H, W)."""
        whole = dict(inputs)
        if self._takes_two_pictures(model):  # the class folds them into one row again
            pictures = inputs["encoder_hidden_states_image"]
            whole["encoder_hidden_states_image"] = pictures.reshape(
                2 * pictures.shape[0], pictures.shape[1] // 2, pictures.shape[2]
            )
        return super().call(model, whole)

    def candidate_groups(
        self, model: nn.Module, inputs: Mapping[str, Tensor], head_dims: bool
    ) -> list[Group]:
        """Return feed-forward widths and whole heads, whatever ``head_dims``."""
        from diffc.models.families.blocks import block_groups

        return block_groups(model)

    def shared_multiple(self, config: JsonObject) -> int | None:
        """Return the patch: the graph takes the first positions of a table; frames are fixed."""
        return self.multiple(config)

    def largest_side(self, config: JsonObject) -> int | None:
        """Return the length of the table of positions, in places of the latent."""
        return int(config.get("rope_max_seq_len") or _POSITIONS) * self.multiple(config)

    def prompt_plan(self, texts: PipelineTexts) -> PromptPlan | None:
        """UMT5 with its mask; the rows of the padding become zeros."""
        if list(texts.encoders) != ["text_encoder"]:
            return None
        use = EncoderUse("tokenizer", texts.tokens, masked=True, zero_padding=True)
        hidden = [[Piece("text_encoder", "last")]]
        return PromptPlan({"text_encoder": use}, {"encoder_hidden_states": hidden}, prepare="plain")

    @staticmethod
    def _takes_two_pictures(model: nn.Module) -> bool:
        config: JsonObject = model.config  # type: ignore[assignment]
        return bool(config.get("image_dim") and config.get("pos_embed_seq_len"))


FAMILY = Wan()
"""The one instance; see ``families.family``."""
