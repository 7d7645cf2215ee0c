"""Pairs added to weights, and the check that LoRAs fit a model.

What is fused is computed in float32, when the weights are read: no file of the model changes, and
everything that reads the model reads it with its LoRAs (diffc/models/load.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from diffc.errors import InputError
from diffc.models.components import Component
from diffc.models.loras.files import DENOISER, LoraFile
from diffc.models.loras.pairs import LoraPair, read_pairs

if TYPE_CHECKING:
    from diffc.models.source import Source


def fuse_state(part: Component, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a component's tensors with its LoRAs added; those that change are in float32.

    Args:
        part: The component.
        state: Its tensors, by the names of its class or of its files. They stay as they are.

    Raises:
        InputError: A LoRA does not fit.
    """
    fused = dict(state)
    if part.loras is None:
        return fused
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    for lora in part.loras.files:
        for pair in read_pairs(lora, part.name, shapes, part.loras):
            key = f"{pair.layer}.weight"
            fused[key] = with_change(fused[key], pair, lora.weight)
    return fused


def fuse_model(part: Component, model: nn.Module) -> None:
    """Add a component's LoRAs to the parameters of its network, in place."""
    if part.loras is None:
        return
    with torch.no_grad():
        state = model.state_dict()
        for name, value in fuse_state(part, state).items():
            if value is not state[name]:
                state[name].copy_(value)


def with_change(weight: Tensor, pair: LoraPair, factor: float) -> Tensor:
    """Return the weight of a layer plus the change of a pair, in float32."""
    return weight.float() + pair.change(factor).reshape(weight.shape)


def check_loras(source: Source, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Check that every LoRA of a model fits, from the model's headers alone.

    Args:
        source: The model.
        shapes: The tensors of its denoiser.

    Returns:
        A note for each LoRA: how many layers it changes.

    Raises:
        InputError: One does not fit.
    """
    parts = {part.name: part for part in (source.denoiser, *source.components)}
    return [_note(source, lora, parts.values(), shapes) for lora in source.all_loras]


def _note(
    source: Source,
    lora: LoraFile,
    parts: Iterable[Component],
    shapes: Mapping[str, tuple[int, ...]],
) -> str:
    counts, names = [], set()
    for part in parts:
        if part.loras is None or lora not in part.loras.files:
            continue
        own = shapes
        if part.is_text_encoder:
            own = {name: entry.shape for name, entry in part.tensors().items()}
        names.add(part.name if part.is_text_encoder else DENOISER)
        if not own:  # pickled weights, whose names are known when they are read
            continue
        alone = replace(part.loras, files=(lora,))
        pairs = read_pairs(lora, part.name, own, alone)
        counts.append(f"{len(pairs)} layers of {part.name or 'the denoiser'}")
    absent = sorted(lora.components - names)
    if not names:
        raise InputError(
            f"{lora.path} changes only {' and '.join(absent)}, which {source.name} does not have",
            hint="give the whole pipeline's folder, or leave the LoRA to who encodes the prompts",
        )
    words = f"the LoRA {lora.words} changes {' and '.join(counts) or 'the weights'}"
    if absent:
        words += f"; its keys of {' and '.join(absent)} change nothing: {source.name} has none"
    return words
