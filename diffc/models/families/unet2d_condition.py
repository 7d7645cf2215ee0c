"""UNet2DConditionModel: the U-Net with cross-attention of Stable Diffusion 1/2, SDXL and LDM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from diffc.errors import InputError
from diffc.input_size import Size
from diffc.models.families.base import (
    CLIP_TOKENS,
    LABELS,
    Family,
    PipelineCall,
    PipelineTexts,
    halving_multiple,
)
from diffc_export.specs import TensorSpec
from diffc_runtime.image_conditions import EDITED_IMAGE, IMAGE_CONDITIONS, MASK, MASKED_IMAGE
from diffc_runtime.json_types import JsonObject
from diffc_runtime.prompt_plan import EncoderUse, GuidanceInput, Piece, PromptPlan

if TYPE_CHECKING:
    from torch import Tensor, nn

    from diffc.models.branches import Branch
    from diffc.models.groups import Group

_SIZE = 64
"""The height and width if a config has none."""

_ADDED = ("text_embeds", "time_ids")
_TIME_IDS = {6: (1024.0, 1024, 0, 0, 1024, 1024), 5: (1024.0, 1024, 0, 0, 6)}
"""SDXL's sizes for example: the original size, the corner of the crop and the target size. The
refiner's last number is an aesthetic score.
"""

# Their attention reshapes heads to its input's width, or normalises by the time embedding, whose
# channels would have to be cut with it: DeepFloyd IF, Kandinsky 2, the k-diffusion upscalers.
_UNSUPPORTED = ("SimpleCrossAttn", "KDown", "KCrossAttn", "KUp")


class UNet2DCondition(Family):
    """The family of U-Nets with cross-attention; see ``base.Family``."""

    class_name = "UNet2DConditionModel"
    component = "unet"
    lora_loader = "StableDiffusionXLLoraLoaderMixin"
    text_places = {"encoder_hidden_states": (0, 1), "text_embeds": (2, 3)}
    text_length_is_pipelines = True
    pipeline_call = PipelineCall(whole_timestep=True)

    def specs(
        self, config: JsonObject, resolution: Size | None = None, tokens: int | None = None
    ) -> list[TensorSpec]:
        """Return sample (C, H, W), timestep (), encoder_hidden_states (L, D), and what the config
        adds.

        SDXL adds text_embeds (1280,) and time_ids (6,); latent consistency models timestep_cond
        (256,); class-conditional ones class_labels. Without cross-attention to a text (AudioLDM)
        there are no encoder_hidden_states. Of in_channels that it does not predict, an inpainting
        model's are mask (1, H, W) and masked_image_latents (C, H, W), an editing model's
        image_latents (C, H, W).
        """
        config = self.full_config(config)
        sample, timestep = self.image_specs(config, resolution, _SIZE)
        channels, *sides = sample.shape
        sample = replace(sample, shape=(channels - self.condition_channels(config), *sides))
        return [
            sample,
            timestep,
            *_text_specs(config, tokens or CLIP_TOKENS),
            *self._class_specs(config),
            *_added_specs(config),
            *_image_specs(config, sides),
        ]

    def condition_channels(self, config: JsonObject) -> int:
        """Return the channels of a mask and a masked image, or of an image to edit."""
        config = self.full_config(config)
        return sum(spec.shape[0] for spec in _image_specs(config, (1, 1)))

    def call(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the predicted noise (or v, or x_0), (B, C, H, W)."""
        inputs = _joined(inputs)
        direct: dict[str, Tensor | None] = {"encoder_hidden_states": None}
        direct |= {name: value for name, value in inputs.items() if name not in _ADDED}
        added = {name: inputs[name] for name in _ADDED if name in inputs}
        output: Tensor = model(**direct, added_cond_kwargs=added or None, return_dict=False)[0]
        return output

    def candidate_groups(
        self, model: nn.Module, inputs: Mapping[str, Tensor], head_dims: bool
    ) -> list[Group]:
        """Trace the convolutions; list feed-forward widths and attention directly.

        Tracing also covers the transformers' inner widths and the time embedding.

        Raises:
            InputError: The model has blocks that cannot be cut.
        """
        from torch import nn

        from diffc.models.families.attention import attention_groups, inner_projections
        from diffc.models.families.feed_forward import feed_forward_groups, first_projections
        from diffc.models.families.graph import trace_groups

        _refuse_unsupported(model)
        fixed = ["conv_out", *inner_projections(model), *first_projections(model)]
        if getattr(model.get_submodule("time_embedding"), "cond_proj", None) is not None:
            # added to the sinusoids, which keep their size
            fixed.append("time_embedding.cond_proj")
        if isinstance(getattr(model, "class_embedding", None), nn.Identity):
            fixed.append("time_embedding.linear_2")  # as wide as the labels that are added to it
        groups = trace_groups(model, inputs, self.call, fixed=fixed)
        return groups + feed_forward_groups(model) + attention_groups(model, head_dims=head_dims)

    def branches(self, model: nn.Module) -> list[Branch]:
        """The branches of its residual blocks and attentions."""
        from diffc.models.branches import residual_branches

        return residual_branches(model)

    def prompt_plan(self, texts: PipelineTexts) -> PromptPlan | None:
        """Stable Diffusion's one CLIP; SDXL's two, whose last hidden states but one are joined."""
        uses = {name: texts.clip(name, f"tokenizer{_number(name)}") for name in texts.encoders}
        width = texts.config.get("time_cond_proj_dim")
        taken = GuidanceInput("timestep_cond", "sinusoids", width=width) if width else None
        if "text_embeds" in texts.takes:
            return _xl_plan(texts, uses, taken)
        if list(uses) != ["text_encoder"]:
            return None
        hidden = [[Piece("text_encoder", "last")]]
        return PromptPlan(uses, {"encoder_hidden_states": hidden}, guidance=taken)

    def middle_block(self, model: nn.Module) -> str:
        """Return the block between the levels down and up."""
        from diffc.models.families.middle import unet_middle

        return unet_middle(model)

    def middle_features(self, output: object) -> Tensor:
        """Return the mean over height and width, (B, C)."""
        from diffc.models.families.middle import places_mean

        return places_mean(output)

    def shared_multiple(self, config: JsonObject) -> int | None:
        """Return the number whose multiples its levels can halve."""
        return halving_multiple(config)

    def multiple(self, config: JsonObject) -> int:
        """Return 1: its forward pass adapts to sizes that its levels cannot halve."""
        return 1

    def _class_specs(self, config: JsonObject) -> list[TensorSpec]:
        kind = config.get("class_embed_type")
        if kind is None:
            classes = self.class_count(config)
            return [replace(LABELS, example=range(classes))] if classes else []
        if kind == "timestep":
            return [TensorSpec(LABELS.name, ())]
        if kind in ("projection", "simple_projection"):
            width = config.get("projection_class_embeddings_input_dim")
            if width is None:
                raise InputError(
                    f"a UNet2DConditionModel with class_embed_type '{kind}' needs "
                    "projection_class_embeddings_input_dim, and its config has none"
                )
            return [TensorSpec(LABELS.name, (width,))]
        if kind == "identity":
            return [TensorSpec(LABELS.name, (_time_width(config),))]
        raise InputError(
            f"a UNet2DConditionModel with class_embed_type '{kind}' is not supported",
            hint="supported: none, timestep, identity, projection, simple_projection",
        )


def _joined(inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the inputs with the conditions of images as further channels of the sample."""
    given = [inputs[name] for name in IMAGE_CONDITIONS if name in inputs]
    if not given:
        return inputs
    import torch

    rest = {name: value for name, value in inputs.items() if name not in IMAGE_CONDITIONS}
    return {**rest, "sample": torch.cat([inputs["sample"], *given], 1)}


def _image_specs(config: JsonObject, sides: Sequence[int]) -> list[TensorSpec]:
    """Return the inputs that the channels beyond those that are predicted hold.

    One channel and an image's are an inpainting model's, an image's an editing model's.
    """
    predicted = int(config["out_channels"])
    further = int(config["in_channels"]) - predicted
    if further == predicted + 1:
        mask = TensorSpec(MASK, (1, *sides), example=1)
        return [mask, TensorSpec(MASKED_IMAGE, (predicted, *sides))]
    return [TensorSpec(EDITED_IMAGE, (predicted, *sides))] if further == predicted else []


def _number(name: str) -> str:
    """Return the end of a component's name: ``_2`` of ``text_encoder_2``."""
    return name.removeprefix("text_encoder")


def _xl_plan(
    texts: PipelineTexts, uses: Mapping[str, EncoderUse], taken: GuidanceInput | None
) -> PromptPlan | None:
    if "text_encoder_2" not in uses:
        return None
    zeros = bool(texts.index.get("force_zeros_for_empty_prompt", True))
    return PromptPlan(
        uses,
        {
            "encoder_hidden_states": [[Piece(name, "penultimate") for name in uses]],
            "text_embeds": [[Piece("text_encoder_2", "pooled")]],
        },
        negative="zeros" if zeros else "empty",
        guidance=taken,
    )


def _refuse_unsupported(model: nn.Module) -> None:
    config: JsonObject = model.config  # type: ignore[assignment]
    blocks = [*config["down_block_types"], config["mid_block_type"], *config["up_block_types"]]
    refused = sorted({b for b in blocks if b and any(kind in b for kind in _UNSUPPORTED)})
    if refused:
        raise InputError(
            f"a UNet2DConditionModel with {', '.join(refused)} cannot be cut",
            hint="supported: the blocks of Stable Diffusion 1, 2 and XL, LDM and LCM",
        )


def _text_specs(config: JsonObject, tokens: int) -> list[TensorSpec]:
    width = _context_width(config)
    return [] if width is None else [TensorSpec("encoder_hidden_states", (tokens, width))]


def _context_width(config: JsonObject) -> int | None:
    """Return the width of encoder_hidden_states; None if no block attends to a text."""
    kind = config.get("encoder_hid_dim_type")
    if kind not in (None, "text_proj"):
        raise InputError(
            f"a UNet2DConditionModel with encoder_hid_dim_type '{kind}' is not supported",
            hint="supported: text_proj; the others take pictures beside the text",
        )
    blocks = [*config["down_block_types"], config["mid_block_type"], *config["up_block_types"]]
    if not any("CrossAttn" in str(block) for block in blocks):
        return None
    if config.get("encoder_hid_dim"):
        return int(config["encoder_hid_dim"])
    return _cross_attention_width(config)


def _cross_attention_width(config: JsonObject) -> int | None:
    """Return the width that every level attends to; None if each has its own (AudioLDM)."""
    width = config["cross_attention_dim"]
    if isinstance(width, list | tuple):
        if list(width) == list(config["block_out_channels"]):
            return None
        types = config["down_block_types"]
        levels = [w for w, kind in zip(width, types, strict=False) if "CrossAttn" in kind]
        widths = {*levels, width[-1]} if "CrossAttn" in str(config["mid_block_type"]) else {*levels}
        width = widths.pop() if len(widths) == 1 else width
    if not isinstance(width, int):
        raise InputError(
            f"a UNet2DConditionModel with cross_attention_dim {width} is not supported",
            hint="supported: one width for the text, or a list equal to block_out_channels",
        )
    return width


def _time_width(config: JsonObject) -> int:
    """Return the width of the time embedding, as the class computes it."""
    factor = 2 if config.get("time_embedding_type") == "fourier" else 4
    return int(config.get("time_embedding_dim") or factor * config["block_out_channels"][0])


def _added_specs(config: JsonObject) -> list[TensorSpec]:
    specs = []
    if config.get("time_cond_proj_dim"):
        specs.append(TensorSpec("timestep_cond", (config["time_cond_proj_dim"],)))
    kind = config.get("addition_embed_type")
    if kind is None:
        return specs
    if kind != "text_time":
        raise InputError(
            f"a UNet2DConditionModel with addition_embed_type '{kind}' is not supported",
            hint="supported: none, text_time",
        )
    total, each = (
        config["projection_class_embeddings_input_dim"],
        config["addition_time_embed_dim"],
    )
    # SDXL's refiner gives five sizes beside the same 1280 of text, the base model six
    ids = 5 if total - 5 * each == 1280 else 6
    text = TensorSpec("text_embeds", (total - ids * each,))
    return [*specs, text, TensorSpec("time_ids", (ids,), example=_TIME_IDS[ids])]


FAMILY = UNet2DCondition()
"""The one instance; see ``families.family``."""
