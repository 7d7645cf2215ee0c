"""Prompts from a text file as the conditions of a text-conditioned denoiser.

The pipeline's own ``encode_prompt`` encodes them, once; the denoiser and the VAE are not loaded for
it. The empty prompt gives the null conditions of classifier-free guidance, which training puts in
the place of a share of the others, so that the guided difference is distilled as well.

    read_prompts     a text file -> its lines (prompt_file.py)
    encode_prompts   lines -> Encoded: rows for each condition, and the null row
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffc.data.prompt_file import read_prompts
from diffc.errors import InputError, RequestError
from diffc.events import Progress, Work
from diffc.models.families.base import TensorSpec
from diffc.models.families.examples import example_inputs
from diffc.models.source import Source

_TAKEN: Mapping[str, Mapping[str, int]] = {  # condition -> its place in what encode_prompt returns
    "UNet2DConditionModel": {"encoder_hidden_states": 0, "text_embeds": 2},
    "SD3Transformer2DModel": {"encoder_hidden_states": 0, "pooled_projections": 2},
    "FluxTransformer2DModel": {"encoder_hidden_states": 0, "pooled_projections": 1},
    "PixArtTransformer2DModel": {"encoder_hidden_states": 0, "encoder_attention_mask": 1},
    "SanaTransformer2DModel": {"encoder_hidden_states": 0, "encoder_attention_mask": 1},
    "WanTransformer3DModel": {"encoder_hidden_states": 0},
}
_CLIP_TOKENS = 77  # SD3 puts CLIP's before T5's; only T5's length is an argument
__all__ = ["ENCODERS", "Encoded", "encode_prompts", "read_prompts"]
ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")


@dataclass(frozen=True)
class Encoded:
    """rows: condition -> (M, ...), one row a prompt. null: condition -> (...), the empty prompt's.

    ``null`` is empty for a model whose guidance is an input (FLUX.1-dev): it has no null prompt.
    """

    rows: Mapping[str, Tensor]
    null: Mapping[str, Tensor]


def encode_prompts(
    source: Source, specs: Sequence[TensorSpec], prompts: Sequence[str], batch: int = 16
) -> Work[Encoded]:
    """The conditions of ``specs`` for each prompt, by the pipeline's text encoders.

    Raises RequestError for a model that takes no prompts, InputError when the encoders cannot be
    loaded or give other shapes than the denoiser takes.
    """
    places = _TAKEN.get(source.class_name)
    if places is None or not source.is_pipeline:
        raise RequestError(
            f"prompts were given, and {source.name}'s {source.class_name} takes none",
            hint="leave the prompts out, or give the whole pipeline's folder",
        )
    names = {spec.name: spec.shape for spec in specs if spec.name in places}
    pipeline = _text_pipeline(source)
    parts: list[dict[str, Tensor]] = []
    for start in range(0, len(prompts), batch):
        found = _encode(pipeline, specs, list(prompts[start : start + batch]))
        parts.append({name: _checked(found[places[name]], name, names[name]) for name in names})
        yield Progress(min(start + batch, len(prompts)), len(prompts), "encoding prompts")
    rows = {name: torch.cat([part[name] for part in parts]) for name in names}
    null: dict[str, Tensor] = {}
    if not any(spec.name == "guidance" for spec in specs):
        empty = _encode(pipeline, specs, [""])
        null = {name: _checked(empty[places[name]], name, names[name])[0] for name in names}
        if getattr(pipeline.config, "force_zeros_for_empty_prompt", False):  # SDXL was trained so
            null = {name: torch.zeros_like(value) for name, value in null.items()}
    return Encoded(rows | _constants(source, specs, names, len(prompts)), null)


def _text_pipeline(source: Source) -> Any:
    """The pipeline with its tokenizers and text encoders alone."""
    from diffc.data.precision import best_device
    from diffc.models.load import load_text_parts

    return load_text_parts(source).to(best_device())


@torch.no_grad()
def _encode(pipeline: Any, specs: Sequence[TensorSpec], prompts: list[str]) -> Sequence[Any]:
    tokens = next(spec.shape[0] for spec in specs if spec.name == "encoder_hidden_states")
    if "StableDiffusion3" in type(pipeline).__name__:
        tokens -= _CLIP_TOKENS
    offered = {
        "device": pipeline.device,
        "prompt_2": None,
        "prompt_3": None,
        "num_images_per_prompt": 1,
        "do_classifier_free_guidance": False,
        "max_sequence_length": tokens,
    }
    known = inspect.signature(pipeline.encode_prompt).parameters
    given = {name: value for name, value in offered.items() if name in known}
    found: Sequence[Any] = pipeline.encode_prompt(prompts, **given)
    return found


def _checked(value: Tensor, name: str, shape: tuple[int, ...]) -> Tensor:
    if tuple(value.shape[1:]) != tuple(shape):
        raise InputError(
            f"the text encoders give '{name}' of shape {tuple(value.shape[1:])}; "
            f"the denoiser takes {tuple(shape)}"
        )
    return value.cpu()


def _constants(
    source: Source, specs: Sequence[TensorSpec], names: Mapping[str, Any], n: int
) -> dict[str, Tensor]:
    """Conditions that are no text: position ids, and the sizes SDXL and PixArt are told."""
    others = [spec for spec in specs if spec.kind == "condition" and spec.name not in names]
    rows = example_inputs(others, source.config, n)
    sample = next(spec.shape for spec in specs if spec.kind == "sample")
    if len(sample) == 3:
        from diffc.data.latents import scale_factor

        height, width = (side * scale_factor(source) for side in sample[1:])
        if "time_ids" in rows and rows["time_ids"].shape[1] == 6:  # the base model's, uncropped
            row = torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32)
            rows["time_ids"] = row.expand(n, -1).clone()
        if "resolution" in rows:
            rows["resolution"] = torch.tensor([[height, width]], dtype=torch.float32).repeat(n, 1)
            rows["aspect_ratio"] = torch.full((n, 1), height / width)
    return rows
