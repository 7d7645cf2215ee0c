"""UNet2DConditionModel: the U-Net with cross-attention of Stable Diffusion 1/2, SDXL and LDM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from diffc.errors import InputError
from diffc.models.families.attention import attention_groups, inner_projections
from diffc.models.families.base import TensorSpec, with_defaults
from diffc.models.families.feed_forward import feed_forward_groups, first_projections
from diffc.models.families.graph import traced_groups
from diffc.models.groups import Group

# CLIP's text encoders give 77 tokens. The class-conditional LDM gives one, its class embedding,
# whose width of 512 no text encoder has.
_CLIP_TOKENS = 77
_CLASS_EMBEDDING = 512

_ADDED = ("text_embeds", "time_ids")

# Their attention reshapes heads to its input's width, or normalises by the time embedding, whose
# channels would have to be cut with it: DeepFloyd IF, Kandinsky 2, the k-diffusion upscalers.
_UNSUPPORTED = ("SimpleCrossAttn", "KDown", "KCrossAttn", "KUp")


class UNet2DCondition:
    """See ``base.Family``."""

    class_name = "UNet2DConditionModel"
    component = "unet"

    def specs(self, config: Mapping[str, Any], resolution: int | None = None) -> list[TensorSpec]:
        """sample (C, H, W), timestep (), encoder_hidden_states (L, D), and what the config adds.

        SDXL adds text_embeds (1280,) and time_ids (6,); latent consistency models timestep_cond
        (256,); class-conditional ones class_labels.
        """
        config = with_defaults(self.class_name, config)
        size = resolution or config.get("sample_size") or 64
        height, width = (size, size) if isinstance(size, int) else size
        context = _last(config["cross_attention_dim"])
        tokens = 1 if context == _CLASS_EMBEDDING else _CLIP_TOKENS
        return [
            TensorSpec("sample", (config["in_channels"], height, width), kind="sample"),
            TensorSpec("timestep", (), kind="timestep"),
            TensorSpec("encoder_hidden_states", (tokens, context)),
            *_class_specs(config),
            *_added_specs(config),
        ]

    def call(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """The predicted noise (or v, or x_0), (B, C, H, W)."""
        direct = {name: value for name, value in inputs.items() if name not in _ADDED}
        added = {name: inputs[name] for name in _ADDED if name in inputs}
        output: Tensor = model(**direct, added_cond_kwargs=added or None, return_dict=False)[0]
        return output

    def groups(
        self, model: nn.Module, inputs: Mapping[str, Tensor], *, head_dims: bool = False
    ) -> list[Group]:
        """Convolution channels, the transformers' inner widths and the time embedding by tracing;
        feed-forward widths and attention by hand.

        Raises InputError for blocks that cannot be cut.
        """
        _refuse_unsupported(model)
        fixed = ["conv_out", *inner_projections(model), *first_projections(model)]
        if getattr(model.get_submodule("time_embedding"), "cond_proj", None) is not None:
            # added to the sinusoids, which keep their size
            fixed.append("time_embedding.cond_proj")
        traced = traced_groups(model, inputs, self.call, fixed=fixed)
        return traced + feed_forward_groups(model) + attention_groups(model, head_dims=head_dims)


def _refuse_unsupported(model: nn.Module) -> None:
    config: Mapping[str, Any] = model.config  # type: ignore[assignment]
    blocks = [*config["down_block_types"], config["mid_block_type"], *config["up_block_types"]]
    found = sorted({b for b in blocks if b and any(kind in b for kind in _UNSUPPORTED)})
    if found:
        raise InputError(
            f"a UNet2DConditionModel with {', '.join(found)} cannot be cut",
            hint="supported: the blocks of Stable Diffusion 1, 2 and XL, LDM and LCM",
        )


def _last(value: Any) -> int:
    return int(value if isinstance(value, int) else value[-1])


def _class_specs(config: Mapping[str, Any]) -> list[TensorSpec]:
    kind = config.get("class_embed_type")
    if kind is None:
        return [TensorSpec("class_labels", (), "int64")] if config.get("num_class_embeds") else []
    if kind == "timestep":
        return [TensorSpec("class_labels", ())]
    if kind in ("projection", "simple_projection"):
        return [TensorSpec("class_labels", (config["projection_class_embeddings_input_dim"],))]
    raise InputError(f"a UNet2DConditionModel with class_embed_type '{kind}' is not supported")


def _added_specs(config: Mapping[str, Any]) -> list[TensorSpec]:
    specs = []
    if config.get("time_cond_proj_dim"):
        specs.append(TensorSpec("timestep_cond", (config["time_cond_proj_dim"],)))
    kind = config.get("addition_embed_type")
    if kind is None:
        return specs
    if kind != "text_time":
        raise InputError(
            f"a UNet2DConditionModel with addition_embed_type '{kind}' is not supported"
        )
    total, each = (
        config["projection_class_embeddings_input_dim"],
        config["addition_time_embed_dim"],
    )
    # SDXL's refiner gives five sizes beside the same 1280 of text, the base model six
    ids = 5 if total - 5 * each == 1280 else 6
    text = TensorSpec("text_embeds", (total - ids * each,))
    return [*specs, text, TensorSpec("time_ids", (ids,))]


FAMILY = UNet2DCondition()
"""The one instance; see ``families.family``."""
