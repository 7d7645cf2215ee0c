"""The noise levels of a flow-matching model's own pipeline, which depend on the image's size.

The scheduler's config alone does not determine them: FluxPipeline and StableDiffusion3Pipeline
compute ``mu`` from the number of image tokens, and FluxPipeline ends at 1 / steps. Imports no
torch.
"""

from __future__ import annotations

from collections.abc import Sequence

from diffc_runtime.json_types import JsonDict, JsonObject

_PATCH = 2
"""Latent pixels along each edge of a token, in every SD3."""


def flow_levels(config: JsonObject, shape: Sequence[int]) -> JsonDict:
    """Return the entries that the pipeline adds to a flow scheduler's config.

    Args:
        config: The scheduler's config.
        shape: The shape of a sample without the batch: (C, H, W), or Flux's (tokens, channels).

    Returns:
        {} for schedulers that are not flow-matching. Otherwise ``mu``: the shift, if the config has
        ``use_dynamic_shifting``; and ``sigmas_end``: "1/steps" for Flux, whose sigmas fall linearly
        from 1 to that value before they are shifted.
    """
    if "FlowMatch" not in str(config.get("_class_name", "")):
        return {}
    levels: JsonDict = {"sigmas_end": "1/steps"} if len(shape) == 2 else {}
    tokens = _tokens(shape)
    if config.get("use_dynamic_shifting") and tokens is not None:
        levels["mu"] = _mu(config, tokens)
    return levels


def _tokens(shape: Sequence[int]) -> int | None:
    """Return the number of image tokens; None for a video."""
    if len(shape) == 2:
        return int(shape[0])
    return (shape[1] // _PATCH) * (shape[2] // _PATCH) if len(shape) == 3 else None


def _mu(config: JsonObject, tokens: int) -> float:
    """Return the shift at ``tokens``, on the line through the config's extreme image sizes."""
    fewest = int(config.get("base_image_seq_len", 256))
    most = int(config.get("max_image_seq_len", 4096))
    low, high = float(config.get("base_shift", 0.5)), float(config.get("max_shift", 1.15))
    slope = (high - low) / (most - fewest)
    return tokens * slope + (low - slope * fewest)
