"""The inputs of a model's denoiser: its family's, at the text length of its pipeline.

A denoiser's config states the width of a text's tokens, but not their number. The pipeline around
it determines the number: by its tokenizer, or by its class.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from diffc.input_size import Size
from diffc.models.config_values import reading_config
from diffc.models.families import family
from diffc.models.families.base import TIMESTEP
from diffc.models.source import Source, read_json
from diffc_export.specs import TensorSpec
from diffc_runtime.json_types import JsonObject

if TYPE_CHECKING:
    import torch

_LENGTHS = {"Kolors": 256, "LDMTextToImage": 77}
"""Prefix of a pipeline's class name -> the length of texts, where the class's call fixes it."""
_LONGEST = 4096
"""Longer lengths mean no limit: tokenizers without one state 10^30."""


def input_specs(
    source: Source, resolution: Size | None = None, tokens: int | None = None
) -> list[TensorSpec]:
    """Return the inputs of the denoiser of ``source``.

    Args:
        source: The model.
        resolution: As in ``Family.specs``.
        tokens: The length of the text condition; None: the pipeline's.
    """
    length = tokens or text_tokens(source)
    with reading_config(source.class_name, source.config):
        return family(source.class_name).specs(source.config, resolution, length)


def input_dtype(name: str, given: torch.dtype, network: torch.dtype) -> torch.dtype:
    """Return the dtype in which a network takes an input, as diffusers' pipelines give it.

    The timestep keeps its own: the network computes its waves in float32, and of 999 bf16 has no
    more than 1000.

    Args:
        name: The input's name.
        given: The dtype of its value.
        network: The dtype of the network's weights.
    """
    return network if given.is_floating_point and name != TIMESTEP.name else given


def text_tokens(source: Source) -> int | None:
    """Return the number of tokens of the pipeline's text condition.

    Returns:
        None if the family knows the number itself. A class that serves many pipelines, such as the
        U-Net with cross-attention, does not. A pipeline without a tokenizer has one token: it
        conditions on one embedding (a class, an image).
    """
    if not family(source.class_name).text_length_is_pipelines or not source.is_pipeline:
        return None
    index = read_json(source.folder / "model_index.json")
    pipeline = str(index.get("_class_name"))
    for prefix, length in _LENGTHS.items():
        if pipeline.startswith(prefix):
            return length
    tokenizer = _tokenizer(index)
    if tokenizer is None:
        return 1
    return tokenizer_length(source.folder / tokenizer)


def tokenizer_length(folder: Path) -> int | None:
    """Return the longest text that a tokenizer's folder states, in tokens; None for no limit."""
    path = folder / "tokenizer_config.json"
    longest = read_json(path).get("model_max_length") if path.exists() else None
    return longest if isinstance(longest, int) and 0 < longest <= _LONGEST else None


def _tokenizer(index: JsonObject) -> str | None:
    """Return the folder of the first CLIP tokenizer; of any tokenizer if CLIP has none."""
    classes = {
        name: str(value[1])
        for name, value in index.items()
        if name.startswith("tokenizer") and isinstance(value, list) and value[-1]
    }
    clip = [name for name, class_name in classes.items() if "CLIP" in class_name]
    return next(iter((*clip, *classes)), None)
