"""The inputs of a model's denoiser: its family's, at the length of text that its pipeline gives.

A denoiser's config says how wide a text's tokens are, and not how many there are. The pipeline
around it does: by its tokenizer, or by its class.
"""

from __future__ import annotations

from diffc.input_size import Size
from diffc.models.config_values import reading_config
from diffc.models.families import family
from diffc.models.source import Source, read_json
from diffc_export.specs import TensorSpec
from diffc_runtime.json_types import JsonObject

_LENGTHS = {"Kolors": 256, "LDMTextToImage": 77}
"""How long texts are by the pipeline's class, where its call fixes it: the class's prefix."""
_LONGEST = 4096
"""Tokenizers without a limit have 10^30 as their length."""


def input_specs(
    source: Source, resolution: Size | None = None, tokens: int | None = None
) -> list[TensorSpec]:
    """The inputs of ``source``'s denoiser.

    Args:
        resolution: as in ``Family.specs``.
        tokens: the length of the text condition; None: what the pipeline gives.
    """
    length = tokens or text_tokens(source)
    with reading_config(source.class_name, source.config):
        return family(source.class_name).specs(source.config, resolution, length)


def text_tokens(source: Source) -> int | None:
    """How many tokens the pipeline's text condition has; None where the family knows by itself.

    A class that serves many pipelines, such as the U-Net with cross-attention, does not know. A
    pipeline without a tokenizer conditions on one embedding (a class, an image).
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
    path = source.folder / tokenizer / "tokenizer_config.json"
    longest = read_json(path).get("model_max_length") if path.exists() else None
    return longest if isinstance(longest, int) and 0 < longest <= _LONGEST else None


def _tokenizer(index: JsonObject) -> str | None:
    """The first CLIP tokenizer's folder; any tokenizer's where there is none of CLIP's."""
    classes = {
        name: str(value[1])
        for name, value in index.items()
        if name.startswith("tokenizer") and isinstance(value, list) and value[-1]
    }
    clip = [name for name, class_name in classes.items() if "CLIP" in class_name]
    return next(iter((*clip, *classes)), None)
