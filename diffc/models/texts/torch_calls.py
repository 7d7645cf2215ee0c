"""The text encoders of a pipeline as torch runs them, behind the runtime's PromptEncoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from diffc.models.source import Source
from diffc.models.texts.export import TextEncoder, load_text_encoder
from diffc_runtime.prompts import EncoderCall, PromptEncoder, read_fixed, read_plan
from diffc_runtime.values import Array


def torch_prompts(source: Source, folder: Path) -> PromptEncoder:
    """Return the text encoders of a source; each is loaded with the first prompt.

    Args:
        source: The model, with its pipeline around it.
        folder: The folder of the plan and the tokenizers, OUT/onnx/text.
    """
    plan = read_plan(folder)

    def open_encoder(name: str) -> EncoderCall:
        encoder = load_text_encoder(source, name, plan.encoders[name], plan.parts_of(name))
        return _call_of(encoder)

    fixed, null = read_fixed(folder)
    return PromptEncoder(plan, folder, open_encoder, fixed, null)


def _call_of(encoder: TextEncoder) -> EncoderCall:
    def call(inputs: dict[str, Array]) -> Mapping[str, Array]:
        tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
        with torch.inference_mode():
            outputs = encoder.kind.run(encoder.model, tensors, tuple(encoder.parts))
        return {name: value.float().numpy() for name, value in outputs.items()}

    return call
