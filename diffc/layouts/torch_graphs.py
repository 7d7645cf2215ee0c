"""Text encoders, which OUT/onnx does not hold in the form that other libraries read.

diffc's give what one pipeline uses of them; these libraries read every output of the class: its
pooled states, its last ones, and for CLIP the hidden states of every layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffc.models.components import Component
from diffc.models.load import load_component
from diffc.models.texts import find_kind
from diffc.models.texts.base import IDS
from diffc_export.onnx.export import trace_module
from diffc_export.onnx.weights import save

_STATES = ("text_embeds", "last_hidden_state", "pooler_output")
_LENGTH, _ROWS, _MOST_TOKENS = 16, 2, 4096


class _AllOutputs(nn.Module):
    """A text encoder as a function of tokens (B, L), to every output that it has."""

    def __init__(self, model: nn.Module, layers: bool) -> None:
        super().__init__()
        self.model, self.layers = model, layers

    def values(self, ids: Tensor) -> Mapping[str, Tensor]:
        """Return the outputs by name, in the order that readers count on."""
        output: Any = self.model(ids, output_hidden_states=self.layers)
        values = {name: getattr(output, name, None) for name in _STATES}
        if self.layers:
            values |= {f"hidden_states.{i}": one for i, one in enumerate(output.hidden_states)}
        return {name: value for name, value in values.items() if value is not None}

    def forward(self, ids: Tensor) -> tuple[Tensor, ...]:
        """Return the values alone."""
        return tuple(self.values(ids).values())


def write_text_encoder(part: Component, path: Path, opset: int) -> None:
    """Write a text encoder as an ONNX file with all of its outputs.

    The graph takes tokens (B, L) in int64. B may be 1 to 63. L is fixed for an encoder whose config
    says how many positions it has, such as CLIP; for others it may be 2 to 4096.

    Args:
        part: The encoder; its weights are read here.
        path: The ONNX file to write; large weights go into a file beside it.
        opset: The version of ONNX's operators.

    Raises:
        InputError: The encoder cannot be loaded, or torch cannot export it.
    """
    kind, model = find_kind(part.class_name), load_component(part)
    assert kind is not None
    if hasattr(model, "set_attn_implementation"):  # the exporter knows no views of fused attention
        model.set_attn_implementation("eager")  # type: ignore[operator]
    length = part.config.get("max_position_embeddings")
    layers = "penultimate" in kind.parts(part.class_name, part.config, 1)
    whole = _AllOutputs(model, layers).eval()
    ids = torch.zeros(_ROWS, int(length or _LENGTH), dtype=torch.int64)
    with torch.no_grad():
        names = list(whole.values(ids))
    dimensions: dict[int, Any] = {0: torch.export.Dim("batch", min=1, max=63)}
    if length is None:
        dimensions[1] = torch.export.Dim("sequence", min=2, max=_MOST_TOKENS)
    apart = trace_module(whole, {IDS: ids}, names, opset, (dimensions,))
    save(apart.proto, path, apart.values)
