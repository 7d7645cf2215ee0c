"""Where a flow-matching model's own pipeline places its noise levels, by the image's size.

The scheduler's config alone does not say it: FluxPipeline and StableDiffusion3Pipeline work out
``mu`` from the number of image tokens, and FluxPipeline ends at 1 / steps. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence

from diffc_runtime.json_types import JsonDict, JsonObject

_PATCH = 2
"""Latent pixels along each side of a token, in every SD3."""


def flow_levels(config: JsonObject, shape: Sequence[int]) -> JsonDict:
    """What the pipeline adds to a flow scheduler's config; {} for other schedulers.

    shape: of a sample without the batch: (C, H, W), or Flux's (tokens, channels).
    ``mu``: the shift of a config that ``use_dynamic_shifting``. ``sigmas_end``: "1/steps" for
    Flux, whose sigmas fall linearly from 1 to that before they are shifted.
    """
    if "FlowMatch" not in str(config.get("_class_name", "")):
        return {}
    levels: JsonDict = {"sigmas_end": "1/steps"} if len(shape) == 2 else {}
    tokens = _tokens(shape)
    if config.get("use_dynamic_shifting") and tokens is not None:
        levels["mu"] = _mu(config, tokens)
    return levels


def _tokens(shape: Sequence[int]) -> int | None:
    """The number of image tokens; None for what is no image (a video)."""
    if len(shape) == 2:
        return int(shape[0])
    return (shape[1] // _PATCH) * (shape[2] // _PATCH) if len(shape) == 3 else None


def _mu(config: JsonObject, tokens: int) -> float:
    """The shift at ``tokens``, on the line through the config's smallest and largest image."""
    fewest = int(config.get("base_image_seq_len", 256))
    most = int(config.get("max_image_seq_len", 4096))
    low, high = float(config.get("base_shift", 0.5)), float(config.get("max_shift", 1.15))
    slope = (high - low) / (most - fewest)
    return tokens * slope + (low - slope * fewest)
